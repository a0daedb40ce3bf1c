// The ops on sparse codes, for autoencoders.

#include "../core/adam.h"
#include "../core/code_gradients.h"
#include "../core/codes.h"
#include "../core/select_above.h"
#include "../core/topk_product.h"
#include "buffers.h"

namespace mmxai::bind {

namespace {

// Latents are checked in Python, once for all ops of a step.
CodeRows code_rows(const Dense<float>& values, const Dense<int32_t>& indices, const Dense<int64_t>& offsets,
                   int64_t latents) {
  require(values.size() == indices.size() && offsets.size() >= 1, "expected as many values as indices");
  const auto rows = static_cast<int64_t>(offsets.size()) - 1;
  require(offsets.at(rows) == values.size() && rows <= INT32_MAX, "expected offsets that end at the values");
  return {values.data(), indices.data(), offsets.data(), rows, latents};
}

void decode_codes(const Dense<float>& values, const Dense<int32_t>& indices, const Dense<int64_t>& offsets,
                  const Dense<float>& table, const py::object& bias, const py::object& base, const py::object& out,
                  int threads) {
  const CodeRows codes = code_rows(values, indices, offsets, table.shape(0));
  const int64_t width = table.shape(1);
  const float *rows = table.data(), *added = tensor<float>(bias, {width}), *begun = tensor<float>(base, {codes.rows, width});
  float* to = tensor<float>(out, {codes.rows, width});
  py::gil_scoped_release release;
  mmxai::decode_codes(codes, rows, width, added, begun, to, threads);
}

void decode_error(const Dense<float>& values, const Dense<int32_t>& indices, const Dense<int64_t>& offsets,
                  const Dense<float>& table, const py::object& target, const py::object& bias, const py::object& base,
                  const Dense<int64_t>& ends, const Dense<double>& weights, const py::object& errors,
                  const py::object& losses, const py::object& d_values, int threads) {
  const CodeRows codes = code_rows(values, indices, offsets, table.shape(0));
  const int64_t width = table.shape(1), groups = ends.size(), rows = codes.rows;
  require(groups >= 1 && weights.size() == groups && ends.at(groups - 1) == codes.latents, "expected ends and weights");
  const DecodeError job{codes,
                        table.data(),
                        tensor<float>(target, {rows, width}),
                        tensor<float>(bias, {width}),
                        tensor<float>(base, {rows, width}),
                        width,
                        groups,
                        ends.data(),
                        weights.data(),
                        tensor<float>(errors, {rows, groups, width}),
                        tensor<double>(losses, {rows, groups}),
                        tensor<float>(d_values, {static_cast<int64_t>(values.size())})};
  py::gil_scoped_release release;
  mmxai::decode_error(job, threads);
}

void code_gradients(const Dense<float>& values, const Dense<int32_t>& indices, const Dense<int64_t>& offsets,
                    const py::object& d_pre, const Dense<float>& errors, const Dense<float>& x,
                    const Dense<int64_t>& ends, const py::object& project, const Dense<float>& g_dec,
                    const py::object& g_enc, const py::object& g_bias, const py::object& squares, int threads) {
  const int64_t latents = g_dec.shape(0), out = g_dec.shape(1), in = x.shape(1), groups = ends.size();
  const CodeRows codes = code_rows(values, indices, offsets, latents);
  require(groups >= 1 && ends.at(groups - 1) == latents, "expected ends of groups");
  require(errors.ndim() == 3 && errors.shape(0) == codes.rows && errors.shape(1) == groups && errors.shape(2) == out,
          "errors have another shape");
  require(x.shape(0) == codes.rows, "x has another shape");
  const CodeGradients job{codes,
                          tensor<float>(d_pre, {static_cast<int64_t>(values.size())}),
                          errors.data(),
                          x.data(),
                          out,
                          in,
                          groups,
                          ends.data(),
                          tensor<float>(project, {latents, out}),
                          tensor<float>(g_dec, {latents, out}),
                          tensor<float>(g_enc, {latents, in}),
                          tensor<float>(g_bias, {latents}),
                          tensor<double>(squares, {latents})};
  py::gil_scoped_release release;
  mmxai::code_gradients(job, threads);
}

void adam_rows(const Dense<float>& w, const py::object& g, const py::object& m, const py::object& v,
               const Dense<double>& fixed, bool unit, int threads) {
  require(w.ndim() == 2 && fixed.size() == 8, "expected w (R, D) and eight numbers");
  const int64_t rows = w.shape(0), width = w.shape(1);
  const double* f = fixed.data();
  const Adam adam{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], unit};
  float *to = tensor<float>(w, {rows, width}), *first = tensor<float>(m, {rows, width});
  float *second = tensor<float>(v, {rows, width}), *from = tensor<float>(g, {rows, width});
  py::gil_scoped_release release;
  mmxai::adam_rows(adam, to, from, first, second, rows, width, threads);
}

// Values, indices and how many of them each row has.
py::tuple select_above(const py::array_t<float>& x, const py::object& bias, const py::object& cuts, float cut,
                       int threads) {
  require(x.ndim() == 2, "expected x (R, M)");
  const int64_t rows = x.shape(0), width = x.shape(1);
  require(x.strides(1) == sizeof(float) || width == 1, "the values of a row are not neighbours");
  const SelectAbove job{x.data(), rows, width, x.strides(0) / static_cast<int64_t>(sizeof(float)),
                        tensor<float>(bias, {width}), tensor<float>(cuts, {width}), cut};
  Dense<int64_t> counts(rows);
  int64_t* to = counts.mutable_data();
  std::vector<Above> found;
  int64_t n = 0;
  {
    py::gil_scoped_release release;
    found = mmxai::select_above(job, to, threads);
    for (const Above& part : found) n += static_cast<int64_t>(part.values.size());
  }
  Dense<float> values(n);
  Dense<int32_t> indices(n);
  float* v = values.mutable_data();
  int32_t* i = indices.mutable_data();
  for (const Above& part : found) {
    v = std::copy(part.values.begin(), part.values.end(), v);
    i = std::copy(part.indices.begin(), part.indices.end(), i);
  }
  return py::make_tuple(values, indices, counts);
}

#ifdef MMXAI_TOPK_PRODUCT
// How many floats of scratch it wants.
int64_t topk_product_scratch(int64_t rows, int64_t latents, int64_t width, int threads) {
  return Plan(rows, latents, width, threads).size();
}

int64_t topk_product(const Dense<float>& x, const Dense<float>& w, const Dense<float>& bias, const py::object& values,
                     const py::object& indices, const py::object& scratch, int threads) {
  require(topk_product_runs(), "this processor has no AVX512-BF16");
  require(x.ndim() == 2 && w.ndim() == 2 && w.shape(1) == x.shape(1) && bias.size() == w.shape(0), "shapes differ");
  require(py::isinstance<Dense<float>>(values) && threads >= 1, "expected values (rows, k) and threads");
  const int64_t rows = x.shape(0), latents = w.shape(0), width = x.shape(1);
  const int64_t k = py::reinterpret_borrow<Dense<float>>(values).shape(1);
  require(k >= 1 && k <= kGroups / 2, "expected 1 <= k <= 128");
  require(latents >= kGroups && latents <= INT32_MAX, "expected 256 latents or more");
  const TopkProduct job{x.data(), w.data(), bias.data(), rows, latents, width, k, tensor<float>(values, {rows, k}),
                        tensor<int32_t>(indices, {rows, k}),
                        tensor<float>(scratch, {topk_product_scratch(rows, latents, width, threads)})};
  py::gil_scoped_release release;
  return mmxai::topk_product(job, threads);
}
#endif

}  // namespace

void codes(py::module_& m) {
#ifdef MMXAI_TOPK_PRODUCT
  m.def("topk_product_runs", &topk_product_runs);
  m.def("topk_product_scratch", &topk_product_scratch, py::arg("rows"), py::arg("latents"), py::arg("width"),
        py::arg("threads"));
  m.def("topk_product", &topk_product, py::arg("x").noconvert(), py::arg("w").noconvert(), py::arg("bias").noconvert(),
        py::arg("values"), py::arg("indices"), py::arg("scratch"), py::arg("threads"));
#endif
  m.def("decode_codes", &decode_codes, py::arg("values").noconvert(), py::arg("indices").noconvert(),
        py::arg("offsets").noconvert(), py::arg("table").noconvert(), py::arg("bias"), py::arg("base"), py::arg("out"),
        py::arg("threads"));
  m.def("decode_error", &decode_error, py::arg("values").noconvert(), py::arg("indices").noconvert(),
        py::arg("offsets").noconvert(), py::arg("table").noconvert(), py::arg("target"), py::arg("bias"),
        py::arg("base"), py::arg("ends").noconvert(), py::arg("weights").noconvert(), py::arg("errors"),
        py::arg("losses"), py::arg("d_values"), py::arg("threads"));
  m.def("code_gradients", &code_gradients, py::arg("values").noconvert(), py::arg("indices").noconvert(),
        py::arg("offsets").noconvert(), py::arg("d_pre"), py::arg("errors").noconvert(), py::arg("x").noconvert(),
        py::arg("ends").noconvert(), py::arg("project"), py::arg("g_dec").noconvert(), py::arg("g_enc"),
        py::arg("g_bias"), py::arg("squares"), py::arg("threads"));
  m.def("adam_rows", &adam_rows, py::arg("w").noconvert(), py::arg("g"), py::arg("m"), py::arg("v"),
        py::arg("fixed").noconvert(), py::arg("unit"), py::arg("threads"));
  m.def("select_above", &select_above, py::arg("x").noconvert(), py::arg("bias"), py::arg("cuts"), py::arg("cut"),
        py::arg("threads"));
}

}  // namespace mmxai::bind
