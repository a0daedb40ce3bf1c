// Python's buffers as the core takes them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>

namespace mmxai::bind {

namespace py = pybind11;

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

inline void require(bool holds, const char* what) {
  if (!holds) throw py::value_error(what);
}

// An array of that type and shape, to be written to; null for None.
template <class T>
T* tensor(const py::object& object, std::initializer_list<int64_t> shape) {
  if (object.is_none()) return nullptr;
  require(py::isinstance<Dense<T>>(object), "a tensor is not contiguous, or of another type");
  auto array = py::reinterpret_borrow<Dense<T>>(object);
  require(array.ndim() == static_cast<int64_t>(shape.size()) && std::equal(shape.begin(), shape.end(), array.shape()),
          "a tensor has another shape");
  return array.mutable_data();
}

// The ops of codes.cpp, dissect.cpp and unembed.cpp.
void codes(py::module_& m);
void dissect(py::module_& m);
void unembed(py::module_& m);

}  // namespace mmxai::bind
