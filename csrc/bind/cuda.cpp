// The CUDA ops for Python. Tensors come as addresses; shapes are checked here, once.

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>

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

}  // namespace

PYBIND11_MODULE(MMXAI_MODULE, m) {
  m.def("device_count", &mmxai::cuda::device_count);
  m.def("pack", &pack, py::arg("x"), py::arg("from_dtype"), py::arg("shape"), py::arg("strides"), py::arg("index"),
        py::arg("count"), py::arg("out"), py::arg("to_dtype"), py::arg("overflow"), py::arg("stream"));
}
