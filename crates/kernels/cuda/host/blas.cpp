// libcublas: strided batches of column-major products with sums in f64. Compiled into a library of its own on top of libcuda.
#include "product.h"

namespace cuda_host {
namespace {
struct Handle {
  void* stream = nullptr;
};
constexpr int STATUS_INVALID_VALUE = 7, STATUS_EXECUTION_FAILED = 13, STATUS_NOT_SUPPORTED = 15;

// C = alpha op(A) op(B) + beta C for each of a batch.
int product(void* handle, int ta, int tb, int m, int n, int k, double alpha, Matrix a, Matrix b, double beta, Matrix c, int batch) {
  if (m < 0 || n < 0 || k < 0 || a.ld < std::max(1, ta ? k : m) || b.ld < std::max(1, tb ? n : k) || c.ld < std::max(1, m))
    return complain(STATUS_INVALID_VALUE, "a product of (%d, %d) and (%d, %d) with leading dimensions %d, %d, %d", m, k, k, n, a.ld, b.ld, c.ld);
  for (int type : {a.type, b.type, c.type})
    if (type != R_32F && type != R_64F && type != R_16F && type != R_16BF) return complain(STATUS_NOT_SUPPORTED, "a product of type %d", type);
  if (!known((void*)a.p) || !known((void*)b.p) || !known((void*)c.p)) return complain(STATUS_INVALID_VALUE, "a product of memory that is not the device's");
  auto work = [=] {
    for (int q = 0; q < batch; q++) multiply(ta, tb, m, n, k, alpha, a.of(q), b.of(q), beta, c.of(q), c.of(q));
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
