// libcublas: strided batches of column-major products with sums in f64. Compiled into a library of its own on top of libcuda.
#include "runtime.h"

#include <vector>

namespace cuda_host {
namespace {
struct Handle {
  void* stream = nullptr;
};
enum Type { R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14 };
constexpr int STATUS_INVALID_VALUE = 7, STATUS_EXECUTION_FAILED = 13, STATUS_NOT_SUPPORTED = 15;

double load(const void* p, size_t i, int type) {
  switch (type) {
    case R_32F: return ((const float*)p)[i];
    case R_64F: return ((const double*)p)[i];
    case R_16F: return from_f16(((const uint16_t*)p)[i]);
    default: return from_bf16(((const uint16_t*)p)[i]);
  }
}
void store(void* p, size_t i, int type, double v) {
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
};

// C = alpha op(A) op(B) + beta C for each of a batch.
int product(void* handle, int ta, int tb, int m, int n, int k, double alpha, Matrix a, Matrix b, double beta, Matrix c, int batch) {
  if (m < 0 || n < 0 || k < 0 || a.ld < std::max(1, ta ? k : m) || b.ld < std::max(1, tb ? n : k) || c.ld < std::max(1, m))
    return complain(STATUS_INVALID_VALUE, "a product of (%d, %d) and (%d, %d) with leading dimensions %d, %d, %d", m, k, k, n, a.ld, b.ld, c.ld);
  for (int type : {a.type, b.type, c.type})
    if (type != R_32F && type != R_64F && type != R_16F && type != R_16BF) return complain(STATUS_NOT_SUPPORTED, "a product of type %d", type);
  if (!known((void*)a.p) || !known((void*)b.p) || !known((void*)c.p)) return complain(STATUS_INVALID_VALUE, "a product of memory that is not the device's");
  auto work = [=] {
    std::vector<double> x(size_t(m) * k), y(size_t(n) * k);
    for (int q = 0; q < batch; q++) {
      for (int i = 0; i < m; i++)
        for (int l = 0; l < k; l++) x[size_t(i) * k + l] = load((void*)a.p, q * a.stride + (ta ? size_t(i) * a.ld + l : size_t(l) * a.ld + i), a.type);
      for (int j = 0; j < n; j++)
        for (int l = 0; l < k; l++) y[size_t(j) * k + l] = load((void*)b.p, q * b.stride + (tb ? size_t(l) * b.ld + j : size_t(j) * b.ld + l), b.type);
      for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++) {
          const double *r = &x[size_t(i) * k], *s = &y[size_t(j) * k];
          double part[8] = {};
          int l = 0;
          for (; l + 8 <= k; l += 8)
            for (int u = 0; u < 8; u++) part[u] += r[l + u] * s[l + u];
          double sum = 0;
          for (; l < k; l++) sum += r[l] * s[l];
          for (double p : part) sum += p;
          size_t at = q * c.stride + size_t(j) * c.ld + i;
          store((void*)c.p, at, c.type, alpha * sum + (beta ? beta * load((void*)c.p, at, c.type) : 0));
        }
    }
    return int(OK);
  };
  return enqueue(((Handle*)handle)->stream, work) ? STATUS_EXECUTION_FAILED : 0;
}
}  // namespace

extern "C" {
int cublasCreate_v2(void** h) { return *h = new Handle, 0; }
int cublasDestroy_v2(void* h) { return delete (Handle*)h, 0; }
int cublasSetStream_v2(void* h, void* stream) { return ((Handle*)h)->stream = stream, 0; }
int cublasGetStream_v2(void* h, void** stream) { return *stream = ((Handle*)h)->stream, 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasSetMathMode(void*, int) { return 0; }
int cublasGemmStridedBatchedEx(void* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int at, int lda, long long sa,
                               const void* b, int bt, int ldb, long long sb, const void* beta, void* c, int ct, int ldc, long long sc, int batch,
                               int compute, int) {
  // The factors have the type of the computation: 64 and 65 are f16, 70 and 71 f64, the others f32.
  auto factor = [&](const void* p) { return load(p, 0, compute == 64 || compute == 65 ? R_16F : compute == 70 || compute == 71 ? R_64F : R_32F); };
  return product(h, ta, tb, m, n, k, factor(alpha), {(uint64_t)a, at, lda, sa}, {(uint64_t)b, bt, ldb, sb}, factor(beta), {(uint64_t)c, ct, ldc, sc},
                 batch);
}
int cublasSgemmStridedBatched(void* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda, long long sa, const float* b,
                              int ldb, long long sb, const float* beta, float* c, int ldc, long long sc, int batch) {
  return product(h, ta, tb, m, n, k, *alpha, {(uint64_t)a, R_32F, lda, sa}, {(uint64_t)b, R_32F, ldb, sb}, *beta, {(uint64_t)c, R_32F, ldc, sc}, batch);
}
int cublasDgemmStridedBatched(void* h, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda, long long sa,
                              const double* b, int ldb, long long sb, const double* beta, double* c, int ldc, long long sc, int batch) {
  return product(h, ta, tb, m, n, k, *alpha, {(uint64_t)a, R_64F, lda, sa}, {(uint64_t)b, R_64F, ldb, sb}, *beta, {(uint64_t)c, R_64F, ldc, sc}, batch);
}
}
}  // namespace cuda_host
