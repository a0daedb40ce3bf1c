// The op of the logit lens.

#include "../core/unembed.h"
#include "buffers.h"

namespace mmxai::bind {

namespace {

static_assert(sizeof(LensSums) == 5 * sizeof(double) && sizeof(Selection::Mark) == 3 * sizeof(int32_t));

// A tile of products into the states of their rows; starts and finals were made by Python for this job.
void unembed_tile(const Dense<float>& products, int64_t first, float scale, float softcap, const py::object& bias,
                  const Dense<int64_t>& starts, const Dense<int64_t>& finals, const Dense<float>& floors,
                  const py::object& sums, const py::object& held, int64_t k, const py::object& marks,
                  const py::object& ranks, int threads) {
  require(products.ndim() == 2 && floors.ndim() == 2 && starts.size() >= 1, "expected products, floors and starts");
  const int64_t rows = products.shape(0), width = products.shape(1), targets = floors.shape(1);
  const int64_t groups = static_cast<int64_t>(starts.size()) - 1;
  require(floors.shape(0) == rows && finals.size() == rows && starts.at(groups) == rows, "expected a floor a row");
  require(k >= 1 && width >= 1 && first >= 0 && first + width <= INT32_MAX, "expected k >= 1 and tokens that exist");
  for (int64_t g = 0; g < groups; ++g) require(0 <= starts.at(g) && starts.at(g) < starts.at(g + 1), "starts fall");
  for (int64_t r = 0; r < rows; ++r) require(finals.at(r) < rows, "a row is compared with none of these");
  const mmxai::UnembedTile tile{products.data(),
                                rows,
                                width,
                                first,
                                scale,
                                softcap,
                                tensor<float>(bias, {width}),
                                starts.data(),
                                groups,
                                finals.data(),
                                floors.data(),
                                targets,
                                k,
                                reinterpret_cast<LensSums*>(tensor<double>(sums, {rows, 5})),
                                tensor<uint64_t>(held, {rows, Selection::room(k)}),
                                reinterpret_cast<Selection::Mark*>(tensor<int32_t>(marks, {rows, 3})),
                                tensor<int64_t>(ranks, {rows, targets})};
  py::gil_scoped_release release;
  mmxai::unembed_tile(tile, threads);
}

// The k largest of every row, when it has met all tiles.
void unembed_best(const py::object& held, const py::object& marks, const Dense<float>& values, const py::object& ids) {
  require(values.ndim() == 2, "expected values (rows, k)");
  const int64_t rows = values.shape(0), k = values.shape(1), room = Selection::room(k);
  auto* keys = tensor<uint64_t>(held, {rows, room});
  const auto* at = reinterpret_cast<Selection::Mark*>(tensor<int32_t>(marks, {rows, 3}));
  auto* to = tensor<int32_t>(ids, {rows, k});
  float* best = tensor<float>(values, {rows, k});
  for (int64_t r = 0; r < rows; ++r) {
    require(at[r].count >= k && at[r].count <= room, "a row has met fewer than k tokens");
    Selection(keys + r * room, k, at[r]).write(to + r * k, best + r * k);
  }
}

}  // namespace

void unembed(py::module_& m) {
  m.def("unembed_tile", &unembed_tile, py::arg("products").noconvert(), py::arg("first"), py::arg("scale"),
        py::arg("softcap"), py::arg("bias"), py::arg("starts").noconvert(), py::arg("finals").noconvert(),
        py::arg("floors").noconvert(), py::arg("sums"), py::arg("held"), py::arg("k"), py::arg("marks"),
        py::arg("ranks"), py::arg("threads"));
  m.def("unembed_best", &unembed_best, py::arg("held"), py::arg("marks"), py::arg("values").noconvert(),
        py::arg("ids"));
}

}  // namespace mmxai::bind
