// The CUDA ops for Python. Tensors come as addresses; shapes are checked here, once.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "../cuda/capture.h"
#include "../cuda/pack.h"

namespace py = pybind11;
using mmxai::cuda::Dtype;

namespace {

using Triple = std::tuple<int64_t, int64_t, int64_t>;

template <class T>
T* address(uintptr_t p) {
  return reinterpret_cast<T*>(p);
}

void pack(uintptr_t x, int from, const Triple& shape, const Triple& strides, uintptr_t index, int64_t count,
          uintptr_t out, int to, uintptr_t overflow, uintptr_t stream) {
  const auto [batch, tokens, width] = shape;
  if (batch < 0 || tokens < 0 || width < 0 || count < 0) throw py::value_error("negative size");
  if (index == 0 && count != batch * tokens) throw py::value_error("out has another number of rows");
  if (count > 0 && width > 0 && (x == 0 || out == 0)) throw py::value_error("null tensor");
  if (overflow == 0) throw py::value_error("no place for the overflow count");
  if (from < 0 || from > 2 || to < 0 || to > 2) throw py::value_error("unknown dtype");
  const auto [batch_stride, token_stride, value_stride] = strides;
  const mmxai::cuda::Pack job{address<void>(x),  static_cast<Dtype>(from), tokens, width,
                              batch_stride,      token_stride,             value_stride,
                              address<int64_t>(index), count, address<void>(out), static_cast<Dtype>(to),
                              address<unsigned long long>(overflow), address<void>(stream)};
  const char* error;
  {
    py::gil_scoped_release release;
    error = mmxai::cuda::pack(job);
  }
  if (error) throw std::runtime_error(std::string("pack: CUDA: ") + error);
}

// Fields by name: there are too many to keep in order.
void capture(const py::dict& fields) {
  const auto number = [&](const char* name) { return fields[name].cast<int64_t>(); };
  const auto at = [&](const char* name) { return fields[name].cast<uintptr_t>(); };
  const auto list = [&](const char* name) {
    const auto parts = fields[name].cast<std::array<uintptr_t, 5>>();
    return mmxai::cuda::List{address<float>(parts[0]), address<int64_t>(parts[1]), address<int64_t>(parts[2]),
                             address<int32_t>(parts[3]), address<int32_t>(parts[4])};
  };
  mmxai::cuda::Capture job{};
  const auto [tokens, width] = fields["shape"].cast<std::pair<int64_t, int64_t>>();
  const auto [batch_stride, token_stride, value_stride] = fields["strides"].cast<Triple>();
  job.x = address<void>(at("x"));
  job.from = number("from_dtype");
  job.to = number("to_dtype");
  job.tokens = tokens;
  job.width = width;
  job.batch_stride = batch_stride;
  job.token_stride = token_stride;
  job.value_stride = value_stride;
  job.index = address<int64_t>(at("index"));
  job.begin = number("begin");
  job.n = number("n");
  job.out = address<void>(at("out"));
  job.scales = address<float>(at("scales"));
  job.overflow = address<unsigned long long>(at("overflow"));
  job.samples = address<int64_t>(at("samples"));
  job.depth = number("depth");
  job.stats = fields.contains("tallies");
  job.stream = address<void>(at("stream"));
  if (job.n < 0 || job.n >= 1 << 30 || tokens < 1 || width < 0 || job.begin < 0)
    throw py::value_error("a size is negative or past 2^30 rows");
  if (job.from < 0 || job.from > 2 || job.to < 0 || job.to > 4) throw py::value_error("unknown dtype");
  if (job.depth < 1 || job.depth > 2040 || job.n > job.depth * 65535) throw py::value_error("tiles of that depth are too many, or too deep");
  if (!job.x || !job.overflow || (job.to < 4 && !job.out) || (job.to == 3 && !job.scales))
    throw py::value_error("null tensor");
  if (job.stats) {
    job.tallies = address<unsigned long long>(at("tallies"));
    job.moments = address<double>(at("moments"));
    job.extremes = address<float>(at("extremes"));
    job.top = list("top");
    job.bottom = list("bottom");
    job.k = number("k");
    job.room = number("room");
    job.row0 = number("row0");
    job.seen = number("seen");
    job.cursor = address<int64_t>(at("cursor"));
    job.tile_moments = address<double>(at("tile_moments"));
    job.tile_extremes = address<float>(at("tile_extremes"));
    job.tile_counts = address<int32_t>(at("tile_counts"));
    if (job.k < 1 || job.k > 128 || job.room < 1) throw py::value_error("k is not from 1 to 128, or room for none");
    if (!job.tallies || !job.moments || !job.extremes || !job.top.values || !job.tile_moments ||
        !job.tile_extremes || !job.tile_counts)
      throw py::value_error("null tensor");
    for (const auto& each : {job.top, job.bottom})
      if (each.values && (!each.rows || !each.numbers || !each.found || !each.samples != !job.samples))
        throw py::value_error("a list lacks a part");
  }
  const char* error;
  {
    py::gil_scoped_release release;
    error = mmxai::cuda::capture(job);
  }
  if (error) throw std::runtime_error(std::string("capture: CUDA: ") + error);
}

}  // namespace

PYBIND11_MODULE(MMXAI_MODULE, m) {
  m.def("device_count", &mmxai::cuda::device_count);
  m.def("capture", &capture, py::arg("fields"));
  m.def("pack", &pack, py::arg("x"), py::arg("from_dtype"), py::arg("shape"), py::arg("strides"), py::arg("index"),
        py::arg("count"), py::arg("out"), py::arg("to_dtype"), py::arg("overflow"), py::arg("stream"));
}
