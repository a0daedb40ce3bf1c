// The CPU ops for Python. Buffers are checked here, once; the core trusts its callers.
//
// Compiled twice, as mmxai._cpu_base and mmxai._cpu_v3 (MMXAI_MODULE).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "../core/capture.h"
#include "../core/crc32c.h"
#include "../core/gather.h"
#include "../core/gather_encoded.h"
#include "../core/pack.h"
#include "../core/permute.h"
#include "../core/quantise.h"
#include "../core/topk_rows.h"
#include "buffers.h"

namespace {

using namespace mmxai::bind;

template <class T>
T* writable(py::array& a) {
  return static_cast<T*>(a.mutable_data());
}

uint32_t crc32c(const Dense<uint8_t>& data, uint32_t value) {
  const uint8_t* p = data.data();
  const size_t n = static_cast<size_t>(data.size());
  py::gil_scoped_release release;
  return mmxai::crc32c(value, p, n);
}

Dense<uint32_t> crc32c_chunks(const Dense<uint8_t>& data, int64_t chunk, int threads) {
  require(chunk > 0, "chunk bytes must be positive");
  const int64_t n = data.size();
  Dense<uint32_t> out((n + chunk - 1) / chunk);
  const uint8_t* p = data.data();
  uint32_t* q = out.mutable_data();
  py::gil_scoped_release release;
  mmxai::crc32c_chunks(p, n, chunk, q, threads);
  return out;
}

Dense<int64_t> feistel(const Dense<uint64_t>& values, uint64_t n, int half, const Dense<uint64_t>& keys,
                       bool forward, int threads) {
  require(keys.size() == 4 && half >= 1 && half <= 31, "expected 4 keys and 1 <= half <= 31");
  mmxai::Feistel f{n, half, {}, forward};
  for (int i = 0; i < 4; ++i) f.keys[i] = keys.at(forward ? i : 3 - i);
  Dense<int64_t> out(values.size());
  const uint64_t* in = values.data();
  int64_t* to = out.mutable_data();
  const int64_t count = values.size();
  py::gil_scoped_release release;
  f.run(in, to, count, threads);
  return out;
}

void gather(const Dense<uint64_t>& addresses, const Dense<int64_t>& starts, int64_t width, int64_t itemsize,
            const Dense<int64_t>& rows, py::array out, int widening, int threads) {
  const auto kind = static_cast<mmxai::Widening>(widening);
  const int64_t out_itemsize = kind == mmxai::Widening::none ? itemsize : 4;
  require(starts.size() == addresses.size() + 1, "expected one start more than addresses");
  require(kind == mmxai::Widening::none || itemsize == 2, "only 16-bit values are widened");
  require(out.itemsize() == out_itemsize && out.size() == rows.size() * width, "out has another size");
  require(out.flags() & py::array::c_style, "out is not contiguous");
  const mmxai::Table table{addresses.data(), starts.data(), static_cast<int64_t>(addresses.size()), width, itemsize};
  const int64_t* r = rows.data();
  const int64_t count = rows.size();
  uint8_t* to = writable<uint8_t>(out);
  py::gil_scoped_release release;
  mmxai::gather(table, r, count, to, kind, threads);
}

// A piece of an encoded table, absent where it has no addresses.
mmxai::Table piece(const Dense<uint64_t>& addresses, const Dense<int64_t>& starts, int64_t width, int64_t itemsize) {
  require(addresses.size() == 0 || starts.size() == addresses.size() + 1, "expected one start more than addresses");
  const auto parts = static_cast<int64_t>(addresses.size());
  return {parts ? addresses.data() : nullptr, starts.data(), parts, width, itemsize};
}

int64_t gather_encoded(const Dense<int64_t>& starts, int64_t width, const Dense<uint64_t>& quantised,
                       const Dense<uint64_t>& scales, const Dense<uint64_t>& kept, int64_t k,
                       const Dense<uint64_t>& indices, int64_t index_bytes, const Dense<int32_t>& columns,
                       const Dense<int64_t>& rows, py::array out, int threads) {
  require(quantised.size() == scales.size() && quantised.size() + kept.size() > 0, "expected scales, or kept values");
  require(kept.size() == 0 || indices.size() == kept.size() || columns.size() == k, "expected a place for each value");
  require(out.size() == rows.size() * width && (out.itemsize() == 2 || out.itemsize() == 4), "out has another size");
  require(out.flags() & py::array::c_style, "out is not contiguous");
  const mmxai::Encoded table{piece(quantised, starts, width, 1), piece(scales, starts, 1, 4), piece(kept, starts, k, 2),
                             piece(indices, starts, k, index_bytes), columns.data(), width};
  const int64_t* r = rows.data();
  const int64_t count = rows.size();
  void* to = out.mutable_data();
  const bool wide = out.itemsize() == 4;
  py::gil_scoped_release release;
  return wide ? mmxai::gather_encoded<mmxai::F32>(table, r, count, static_cast<uint32_t*>(to), threads)
              : mmxai::gather_encoded<mmxai::BF16>(table, r, count, static_cast<uint16_t*>(to), threads);
}

template <class S>
mmxai::Grid<S> grid_of(const py::array& x) {
  using In = typename S::bits;
  const auto stride = [&](int axis) { return x.strides(axis) / static_cast<int64_t>(sizeof(In)); };
  return {static_cast<const In*>(x.data()), x.shape(1), x.shape(2), stride(0), stride(1), stride(2)};
}

// The flat rows kept, or null where `index` is None and all are.
const int64_t* rows_of(const py::array& x, const py::object& index, int64_t count) {
  if (index.is_none()) {
    require(count == x.shape(0) * x.shape(1), "out has another number of rows");
    return nullptr;
  }
  require(py::isinstance<Dense<int64_t>>(index), "index is not contiguous int64");
  const auto array = py::reinterpret_borrow<Dense<int64_t>>(index);
  require(array.size() == count, "out has another number of rows");
  return array.data();
}

template <class S, class D>
int64_t pack_as(const py::array& x, const int64_t* index, int64_t count, py::array& out, int threads) {
  const mmxai::Grid<S> grid = grid_of<S>(x);
  auto* to = writable<typename D::bits>(out);
  py::gil_scoped_release release;
  return mmxai::pack<S, D>(grid, index, count, to, threads);
}

template <class S>
int64_t pack_from(const py::array& x, const int64_t* index, int64_t count, py::array& out, mmxai::Dtype to, int threads) {
  switch (to) {
    case mmxai::Dtype::f32: return pack_as<S, mmxai::F32>(x, index, count, out, threads);
    case mmxai::Dtype::bf16: return pack_as<S, mmxai::BF16>(x, index, count, out, threads);
    case mmxai::Dtype::f16: return pack_as<S, mmxai::F16>(x, index, count, out, threads);
  }
  throw py::value_error("unknown dtype");
}

int64_t itemsize_of(mmxai::Dtype dtype) { return dtype == mmxai::Dtype::f32 ? 4 : 2; }

int64_t pack(py::array x, int from, const py::object& index, py::array out, int to, int threads) {
  const auto source = static_cast<mmxai::Dtype>(from), target = static_cast<mmxai::Dtype>(to);
  require(x.ndim() == 3 && out.ndim() == 2 && x.shape(2) == out.shape(1), "expected x (B, T, D) and out (N, D)");
  require(x.itemsize() == itemsize_of(source) && out.itemsize() == itemsize_of(target), "wrong item sizes");
  require(out.flags() & py::array::c_style, "out is not contiguous");
  const int64_t count = out.shape(0);
  const int64_t* rows = rows_of(x, index, count);
  switch (source) {
    case mmxai::Dtype::f32: return pack_from<mmxai::F32>(x, rows, count, out, target, threads);
    case mmxai::Dtype::bf16: return pack_from<mmxai::BF16>(x, rows, count, out, target, threads);
    case mmxai::Dtype::f16: return pack_from<mmxai::F16>(x, rows, count, out, target, threads);
  }
  throw py::value_error("unknown dtype");
}

mmxai::Ranks ranks_of(const py::tuple& lists, int64_t k, int64_t width) {
  require(lists.size() == 3, "expected values, rows and samples");
  return {tensor<float>(lists[0], {k, width}), tensor<int64_t>(lists[1], {k, width}),
          tensor<int64_t>(lists[2], {k, width}), k, width};
}

template <class S>
int64_t capture_from(const mmxai::Capture& job, const py::array& x, const int64_t* index, int64_t count,
                     const py::object& out, mmxai::Dtype to, int threads) {
  const mmxai::Grid<S> grid = grid_of<S>(x);
  void* target = out.is_none() ? nullptr : py::reinterpret_borrow<py::array>(out).mutable_data();
  py::gil_scoped_release release;
  const auto as = [&](auto dtype) {
    using D = decltype(dtype);
    auto* values = static_cast<typename D::bits*>(target);
    return values ? mmxai::capture<S, D, true>(job, grid, index, count, values, threads)
                  : mmxai::capture<S, D, false>(job, grid, index, count, values, threads);
  };
  switch (to) {
    case mmxai::Dtype::f32: return as(mmxai::F32{});
    case mmxai::Dtype::bf16: return as(mmxai::BF16{});
    case mmxai::Dtype::f16: return as(mmxai::F16{});
  }
  throw py::value_error("unknown dtype");
}

int64_t capture(py::array x, int from, const py::object& index, int64_t count, const py::object& out, int to,
                int64_t seen, const py::object& tallies, const py::object& moments, const py::object& extremes,
                int64_t k, const py::tuple& top, const py::tuple& bottom, const py::object& samples, int64_t row0,
                int threads) {
  const auto source = static_cast<mmxai::Dtype>(from), target = static_cast<mmxai::Dtype>(to);
  require(x.ndim() == 3 && x.itemsize() == itemsize_of(source), "expected x (B, T, D) of its dtype");
  require(k >= 1 && k <= mmxai::kMostRanks && threads >= 1, "expected 1 <= k <= 128 and a thread at least");
  require(count <= INT32_MAX, "expected fewer than 2^31 rows");
  const int64_t width = x.shape(2);
  if (!out.is_none()) {
    const auto array = py::reinterpret_borrow<py::array>(out);
    require(array.ndim() == 2 && array.shape(0) == count && array.shape(1) == width, "out has another shape");
    require(array.itemsize() == itemsize_of(target) && (array.flags() & py::array::c_style), "out is of another type");
  }
  const mmxai::Capture job{
      {width, seen, tensor<int64_t>(tallies, {4, width}), tensor<double>(moments, {2, width}),
       tensor<float>(extremes, {2, width})},
      ranks_of(top, k, width), ranks_of(bottom, k, width), {}, {}, tensor<int64_t>(samples, {count}), row0};
  require(!job.top.samples || job.samples, "expected the samples of the rows");
  const int64_t* rows = rows_of(x, index, count);
  switch (source) {
    case mmxai::Dtype::f32: return capture_from<mmxai::F32>(job, x, rows, count, out, target, threads);
    case mmxai::Dtype::bf16: return capture_from<mmxai::BF16>(job, x, rows, count, out, target, threads);
    case mmxai::Dtype::f16: return capture_from<mmxai::F16>(job, x, rows, count, out, target, threads);
  }
  throw py::value_error("unknown dtype");
}

void quantise(py::array x, int from, const py::object& index, const py::object& out, const py::object& scales,
              int threads) {
  require(x.ndim() == 3, "expected x (B, T, D)");
  const int64_t count = py::len(scales), width = x.shape(2);
  const int64_t* rows = rows_of(x, index, count);
  auto* to = tensor<int8_t>(out, {count, width});
  auto* by = tensor<float>(scales, {count});
  const auto run = [&](auto dtype) {
    const auto grid = grid_of<decltype(dtype)>(x);
    py::gil_scoped_release release;
    mmxai::quantise(grid, rows, count, to, by, threads);
  };
  switch (static_cast<mmxai::Dtype>(from)) {
    case mmxai::Dtype::f32: return run(mmxai::F32{});
    case mmxai::Dtype::bf16: return run(mmxai::BF16{});
    case mmxai::Dtype::f16: return run(mmxai::F16{});
  }
  throw py::value_error("unknown dtype");
}

void topk_rows(py::array x, int from, bool magnitude, const py::object& bias, py::array values,
               const py::object& indices, int threads) {
  const auto source = static_cast<mmxai::Dtype>(from);
  require(x.ndim() == 2 && values.ndim() == 2 && values.shape(0) == x.shape(0), "expected x (N, D), values (N, k)");
  const int64_t rows = x.shape(0), width = x.shape(1), k = values.shape(1);
  require(k >= 1 && k <= width && width <= INT32_MAX, "expected 1 <= k <= D");
  require(x.itemsize() == itemsize_of(source) && values.itemsize() == x.itemsize(), "wrong item sizes");
  require(x.strides(1) == x.itemsize() || width == 1, "the values of a row are not neighbours");
  require(values.flags() & py::array::c_style, "values are not contiguous");
  require(bias.is_none() || source == mmxai::Dtype::f32, "only float32 gets a bias");
  auto* at = tensor<int32_t>(indices, {rows, k});
  const float* added = tensor<float>(bias, {width});
  const auto run = [&](auto dtype) {
    using S = decltype(dtype);
    using In = typename S::bits;
    const auto* from_values = static_cast<const In*>(x.data());
    auto* to = writable<In>(values);
    const int64_t stride = x.strides(0) / x.itemsize();
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<S, mmxai::F32>) {
      if (added) return mmxai::topk_rows<S, true>(from_values, rows, width, stride, added, k, magnitude, to, at, threads);
    }
    mmxai::topk_rows<S, false>(from_values, rows, width, stride, nullptr, k, magnitude, to, at, threads);
  };
  switch (source) {
    case mmxai::Dtype::f32: return run(mmxai::F32{});
    case mmxai::Dtype::bf16: return run(mmxai::BF16{});
    case mmxai::Dtype::f16: return run(mmxai::F16{});
  }
  throw py::value_error("unknown dtype");
}

}  // namespace

PYBIND11_MODULE(MMXAI_MODULE, m) {
  m.def("crc32c", &crc32c, py::arg("data").noconvert(), py::arg("value"));
  m.def("crc32c_chunks", &crc32c_chunks, py::arg("data").noconvert(), py::arg("chunk_bytes"), py::arg("threads"));
  m.def("feistel", &feistel, py::arg("values").noconvert(), py::arg("n"), py::arg("half"),
        py::arg("keys").noconvert(), py::arg("forward"), py::arg("threads"));
  m.def("gather", &gather, py::arg("addresses").noconvert(), py::arg("starts").noconvert(), py::arg("width"),
        py::arg("itemsize"), py::arg("rows").noconvert(), py::arg("out"), py::arg("widening"), py::arg("threads"));
  m.def("gather_encoded", &gather_encoded, py::arg("starts").noconvert(), py::arg("width"),
        py::arg("quantised").noconvert(), py::arg("scales").noconvert(), py::arg("kept").noconvert(), py::arg("k"),
        py::arg("indices").noconvert(), py::arg("index_bytes"), py::arg("columns").noconvert(),
        py::arg("rows").noconvert(), py::arg("out"), py::arg("threads"));
  m.def("pack", &pack, py::arg("x"), py::arg("from_dtype"), py::arg("index"), py::arg("out"), py::arg("to_dtype"),
        py::arg("threads"));
  m.def("capture", &capture, py::arg("x"), py::arg("from_dtype"), py::arg("index"), py::arg("count"), py::arg("out"),
        py::arg("to_dtype"), py::arg("seen"), py::arg("tallies"), py::arg("moments"), py::arg("extremes"), py::arg("k"),
        py::arg("top"), py::arg("bottom"), py::arg("samples"), py::arg("row0"), py::arg("threads"));
  m.def("quantise", &quantise, py::arg("x"), py::arg("from_dtype"), py::arg("index"), py::arg("out"),
        py::arg("scales"), py::arg("threads"));
  m.def("topk_rows", &topk_rows, py::arg("x"), py::arg("from_dtype"), py::arg("magnitude"), py::arg("bias"),
        py::arg("values"), py::arg("indices"), py::arg("threads"));
  mmxai::bind::codes(m);
  mmxai::bind::dissect(m);
  mmxai::bind::unembed(m);
}
