// The ops of network dissection and of labelling by text.

#include <string>

#include "../core/bilinear_counts.h"
#include "../core/cell_labels.h"
#include "../core/log_products.h"
#include "../core/mask_counts.h"
#include "buffers.h"

namespace mmxai::bind {

namespace {

template <class T>
py::array_t<T> array_of(const std::vector<T>& v) {
  return py::array_t<T>(static_cast<py::ssize_t>(v.size()), v.data());
}

// Where blocks begin must rise within the map.
void require_starts(const Dense<int32_t>& starts, int64_t length) {
  const auto n = static_cast<int64_t>(starts.size());
  require(n >= 2 && starts.at(0) >= 0 && starts.at(n - 1) <= length, "expected starts within the map");
  require(std::is_sorted(starts.data(), starts.data() + n), "expected starts that rise");
}

// Of each picture offsets, columns, counts, starts and bits.
py::list cell_labels(const Dense<int32_t>& maps, const Dense<int32_t>& row_starts, const Dense<int32_t>& col_starts,
                     const Dense<int32_t>& whole, bool bits, int threads) {
  require(maps.ndim() == 4, "expected maps (B, M, h, w)");
  require_starts(row_starts, maps.shape(2));
  require_starts(col_starts, maps.shape(3));
  const LabelMaps job{maps.data(), maps.shape(1), maps.shape(2), maps.shape(3),
                      row_starts.data(), static_cast<int64_t>(row_starts.size()) - 1,
                      col_starts.data(), static_cast<int64_t>(col_starts.size()) - 1,
                      whole.data(), static_cast<int64_t>(whole.size())};
  const int64_t pictures = maps.shape(0);
  std::vector<BlockEntries> found;
  {
    py::gil_scoped_release release;
    found = mmxai::cell_labels(job, pictures, bits, threads);
  }
  py::list arrays;
  for (const BlockEntries& f : found) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(f.bits.data());
    const py::array_t<uint8_t> packed(static_cast<py::ssize_t>(8 * f.bits.size()), bytes);
    arrays.append(py::make_tuple(array_of(f.offsets), array_of(f.columns), array_of(f.counts), array_of(f.starts), packed));
  }
  return arrays;
}

// Columns are checked in Python.
CellEntries entries_of(const Dense<int64_t>& offsets, const Dense<int32_t>& columns, const Dense<int32_t>& counts,
                       int64_t cells) {
  require(offsets.size() == cells + 1 && columns.size() == counts.size(), "expected offsets of the cells");
  require(offsets.at(0) == 0 && offsets.at(cells) == columns.size(), "expected offsets from 0 to the entries");
  return {offsets.data(), columns.data(), counts.data()};
}

LabelSums sums_of(const Dense<int64_t>& sums, int64_t units) {
  require(sums.ndim() == 2 && sums.shape(0) == units, "expected sums (U, C)");
  return {const_cast<int64_t*>(sums.data()), sums.shape(1)};
}

template <class Run>
void by_dtype(int dtype, const Run& run) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::f32: return run(F32{});
    case Dtype::bf16: return run(BF16{});
    case Dtype::f16: return run(F16{});
  }
  throw py::value_error("unknown dtype");
}

void require_rows(const py::array& x, int dtype) {
  require(x.ndim() == 2 && x.itemsize() == (dtype == static_cast<int>(Dtype::f32) ? 4 : 2), "expected x (T, U)");
  require(x.strides(1) == x.itemsize() || x.shape(1) == 1, "the values of a row are not neighbours");
}

void mask_counts(const py::array& x, int dtype, const Dense<float>& threshold, const Dense<int64_t>& offsets,
                 const Dense<int32_t>& columns, const Dense<int32_t>& counts, const Dense<int64_t>& sums, int threads) {
  require_rows(x, dtype);
  const int64_t rows = x.shape(0), units = x.shape(1), stride = x.strides(0) / x.itemsize();
  require(threshold.size() == units, "expected a threshold a unit");
  const CellEntries cells = entries_of(offsets, columns, counts, rows);
  const LabelSums to = sums_of(sums, units);
  const float* cut = threshold.data();
  by_dtype(dtype, [&](auto kind) {
    using S = decltype(kind);
    const auto* values = static_cast<const typename S::bits*>(x.data());
    py::gil_scoped_release release;
    mmxai::mask_counts<S>(values, rows, units, stride, cut, cells, to, threads);
  });
}

void mask_counts_sparse(const Dense<float>& values, const Dense<int32_t>& indices, const Dense<int64_t>& starts,
                        const Dense<float>& threshold, const Dense<int64_t>& offsets, const Dense<int32_t>& columns,
                        const Dense<int32_t>& counts, const Dense<int64_t>& sums, int threads) {
  const auto rows = static_cast<int64_t>(starts.size()) - 1, units = static_cast<int64_t>(threshold.size());
  require(rows >= 0 && starts.at(rows) == values.size() && indices.size() == values.size(), "expected sparse rows");
  const CellEntries cells = entries_of(offsets, columns, counts, rows);
  const LabelSums to = sums_of(sums, units);
  const SparseRows x{values.data(), indices.data(), starts.data(), rows, units};
  const float* cut = threshold.data();
  py::gil_scoped_release release;
  mmxai::mask_counts(x, cut, cells, to, threads);
}

// An array that the caller keeps: it must be of that type already, for a copy would not last.
template <class T>
Dense<T> part(const py::tuple& picture, size_t i) {
  require(py::isinstance<Dense<T>>(picture[i]), "a part of a picture is not contiguous, or of another type");
  return py::reinterpret_borrow<Dense<T>>(picture[i]);
}

Blocks blocks_of(const py::tuple& picture, int dtype, int64_t units) {
  require(picture.size() == 12 && py::isinstance<py::array>(picture[0]), "expected twelve parts of a picture");
  const auto x = py::reinterpret_borrow<py::array>(picture[0]);
  require_rows(x, dtype);
  require(x.shape(1) == units, "expected a threshold a unit");
  const auto rows = picture[1].cast<int64_t>(), cols = picture[2].cast<int64_t>();
  require(rows >= 1 && cols >= 1 && x.shape(0) == rows * cols, "expected a row of x a cell");
  const auto row_starts = part<int32_t>(picture, 3), col_starts = part<int32_t>(picture, 4);
  const auto row_weights = part<float>(picture, 5), col_weights = part<float>(picture, 6);
  require(row_starts.size() == rows + 2 && col_starts.size() == cols + 2, "expected a block more than cells");
  require_starts(row_starts, row_weights.size());
  require_starts(col_starts, col_weights.size());
  const auto offsets = part<int64_t>(picture, 7), starts = part<int64_t>(picture, 10);
  const auto columns = part<int32_t>(picture, 8), counts = part<int32_t>(picture, 9);
  const auto bits = part<uint8_t>(picture, 11);
  const int64_t blocks = (rows + 1) * (cols + 1);
  const CellEntries entries = entries_of(offsets, columns, counts, blocks);
  require(starts.size() == blocks + 1 && starts.at(blocks) == bits.size(), "expected starts of the bits");
  require(reinterpret_cast<uintptr_t>(bits.data()) % 8 == 0, "bits are not aligned");
  return {x.data(),           x.strides(0) / x.itemsize(), rows,    cols,          row_starts.data(), col_starts.data(),
          row_weights.data(), col_weights.data(),          entries, starts.data(),
          reinterpret_cast<const uint64_t*>(bits.data())};
}

// The caller's list keeps the arrays of the pictures.
void bilinear_counts(const py::list& pictures, int dtype, const Dense<float>& threshold, const Dense<int64_t>& sums,
                     int threads) {
  const auto units = static_cast<int64_t>(threshold.size());
  std::vector<Blocks> jobs;
  for (const py::handle& picture : pictures) jobs.push_back(blocks_of(picture.cast<py::tuple>(), dtype, units));
  const LabelSums to = sums_of(sums, units);
  const float* cut = threshold.data();
  by_dtype(dtype, [&](auto kind) {
    py::gil_scoped_release release;
    mmxai::bilinear_counts<decltype(kind)>(jobs, units, cut, to, threads);
  });
}

void log_norms(const py::array_t<float>& x, float scale, const py::object& out, int threads) {
  require(x.ndim() == 2 && (x.strides(1) == sizeof(float) || x.shape(1) == 1), "expected rows of neighbours");
  const LogNorms job(x.data(), x.shape(0), x.shape(1), x.strides(0) / static_cast<int64_t>(sizeof(float)), scale);
  auto* to = tensor<float>(out, {x.shape(0)});
  py::gil_scoped_release release;
  job.run(to, threads);
}

bool log_products(const py::array_t<float>& p, float scale, const py::object& norms, const Dense<int32_t>& tops,
                  const Dense<float>& weights, double floor, float marginal, const py::object& out, int threads) {
  require(p.ndim() == 2 && (p.strides(1) == sizeof(float) || p.shape(1) == 1), "expected rows of neighbours");
  require(tops.ndim() == 2 && weights.size() == tops.shape(1) && floor > 0, "expected a weight a rank");
  const int64_t units = tops.shape(0), words = p.shape(1);
  require(p.shape(0) < INT32_MAX / kWords, "expected fewer pictures");
  const LogProducts job{p.data(), p.shape(0), words, p.strides(0) / static_cast<int64_t>(sizeof(float)),
                        tensor<float>(norms, {p.shape(0)}), scale, tops.data(), units, tops.shape(1), weights.data(), floor, marginal,
                        tensor<float>(out, {units, words})};
  py::gil_scoped_release release;
  return mmxai::log_products(job, threads);
}

}  // namespace

void dissect(py::module_& m) {
  m.def("cell_labels", &cell_labels, py::arg("maps").noconvert(), py::arg("row_starts").noconvert(),
        py::arg("col_starts").noconvert(), py::arg("whole").noconvert(), py::arg("bits"), py::arg("threads"));
  m.def("mask_counts", &mask_counts, py::arg("x"), py::arg("dtype"), py::arg("threshold").noconvert(),
        py::arg("offsets").noconvert(), py::arg("columns").noconvert(), py::arg("counts").noconvert(),
        py::arg("sums").noconvert(), py::arg("threads"));
  m.def("mask_counts_sparse", &mask_counts_sparse, py::arg("values").noconvert(), py::arg("indices").noconvert(),
        py::arg("starts").noconvert(), py::arg("threshold").noconvert(), py::arg("offsets").noconvert(),
        py::arg("columns").noconvert(), py::arg("counts").noconvert(), py::arg("sums").noconvert(),
        py::arg("threads"));
  m.def("bilinear_counts", &bilinear_counts, py::arg("pictures"), py::arg("dtype"), py::arg("threshold").noconvert(),
        py::arg("sums").noconvert(), py::arg("threads"));
  m.def("log_norms", &log_norms, py::arg("x").noconvert(), py::arg("scale"), py::arg("out"), py::arg("threads"));
  m.def("log_products", &log_products, py::arg("p").noconvert(), py::arg("scale"), py::arg("norms"), py::arg("tops").noconvert(),
        py::arg("weights").noconvert(), py::arg("floor"), py::arg("marginal"), py::arg("out"), py::arg("threads"));
}

}  // namespace mmxai::bind
