// The CPU ops for Python. Buffers are checked here, once; the core trusts its callers.
//
// Compiled twice, as mmxai._cpu_base and mmxai._cpu_v3 (MMXAI_MODULE).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "../core/crc32c.h"
#include "../core/gather.h"
#include "../core/gather_encoded.h"
#include "../core/pack.h"
#include "../core/permute.h"

namespace py = pybind11;

namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style>;

void require(bool holds, const char* what) {
  if (!holds) throw py::value_error(what);
}

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

template <class S, class D>
int64_t pack_as(const py::array& x, const int64_t* index, int64_t count, py::array& out, int threads) {
  using In = typename S::bits;
  const auto stride = [&](int axis) { return x.strides(axis) / static_cast<int64_t>(sizeof(In)); };
  const mmxai::Grid<S> grid{static_cast<const In*>(x.data()), x.shape(1), x.shape(2), stride(0), stride(1), stride(2)};
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
  const int64_t* rows = nullptr;
  if (index.is_none()) {
    require(count == x.shape(0) * x.shape(1), "out has another number of rows");
  } else {
    require(py::isinstance<Dense<int64_t>>(index), "index is not contiguous int64");
    const auto array = py::reinterpret_borrow<Dense<int64_t>>(index);
    require(array.size() == count, "out has another number of rows");
    rows = array.data();
  }
  switch (source) {
    case mmxai::Dtype::f32: return pack_from<mmxai::F32>(x, rows, count, out, target, threads);
    case mmxai::Dtype::bf16: return pack_from<mmxai::BF16>(x, rows, count, out, target, threads);
    case mmxai::Dtype::f16: return pack_from<mmxai::F16>(x, rows, count, out, target, threads);
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
}
