// Products of matrices that lie column by column, with sums in f64: what libcublas and libcublasLt share.
#pragma once
#include "runtime.h"

#include <vector>

namespace cuda_host {
enum Type { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };

inline double load(const void* p, size_t i, int type) {
  switch (type) {
    case R_32F: return ((const float*)p)[i];
    case R_64F: return ((const double*)p)[i];
    case R_16F: return from_f16(((const uint16_t*)p)[i]);
    default: return from_bf16(((const uint16_t*)p)[i]);
  }
}
inline void store(void* p, size_t i, int type, double v) {
  switch (type) {
    case R_32F: ((float*)p)[i] = float(v); break;
    case R_64F: ((double*)p)[i] = v; break;
    case R_16F: ((uint16_t*)p)[i] = to_f16(float(v)); break;
    default: ((uint16_t*)p)[i] = to_bf16(float(v));
  }
}

struct Matrix {
  uint64_t p;
  int type, ld;
  long long stride;
  size_t size() const { return type == R_32F ? 4 : type == R_64F ? 8 : 2; }
  // The one of number q of a batch.
  Matrix of(int q) const { return {p + uint64_t(q) * stride * size(), type, ld, stride}; }
  double at(size_t i) const { return load((void*)p, i, type); }
};

// D = alpha op(A) op(B) + beta C + bias, where bias (m), if there is one, is added to every column; `sums` (n) receives the sums of op(B)'s columns.
inline void multiply(int ta, int tb, int m, int n, int k, double alpha, Matrix a, Matrix b, double beta, Matrix c, Matrix d, Matrix bias = {},
                     Matrix sums = {}) {
  std::vector<double> x(size_t(m) * k), y(size_t(n) * k);
  for (int i = 0; i < m; i++)
    for (int l = 0; l < k; l++) x[size_t(i) * k + l] = a.at(ta ? size_t(i) * a.ld + l : size_t(l) * a.ld + i);
  for (int j = 0; j < n; j++)
    for (int l = 0; l < k; l++) y[size_t(j) * k + l] = b.at(tb ? size_t(l) * b.ld + j : size_t(j) * b.ld + l);
  for (int j = 0; j < n; j++) {
    for (int i = 0; i < m; i++) {
      const double *r = &x[size_t(i) * k], *s = &y[size_t(j) * k];
      double part[8] = {};
      int l = 0;
      for (; l + 8 <= k; l += 8)
        for (int u = 0; u < 8; u++) part[u] += r[l + u] * s[l + u];
      double sum = 0;
      for (; l < k; l++) sum += r[l] * s[l];
      for (double p : part) sum += p;
      size_t at = size_t(j) * d.ld + i;
      double more = beta ? beta * c.at(size_t(j) * c.ld + i) : 0;
      store((void*)d.p, at, d.type, alpha * sum + more + (bias.p ? bias.at(i) : 0));
    }
    if (!sums.p) continue;
    double sum = 0;
    for (int l = 0; l < k; l++) sum += y[size_t(j) * k + l];
    store((void*)sums.p, j, sums.type, sum);
  }
}
}  // namespace cuda_host
