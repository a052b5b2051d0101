// libcublasLt: products with what goes before and after them. Compiled into a library of its own on top of libcuda.
#include "product.h"

namespace cuda_host {
namespace {
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t ld;
};
struct Description {
  int ta = 0, tb = 0, epilogue = 1, bias_type = -1;
  uint64_t bias = 0;
};
// The library's own: 64 bytes, of which the first eight must come back as they were.
struct Algorithm {
  uint64_t mark, rest[7];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
constexpr uint64_t MARK = 0x6c74616c676f;
enum Attribute { TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8, BIAS_DATA_TYPE = 26 };
enum Epilogue { DEFAULT = 1, BIAS = 4, BGRADB = 512 };
constexpr int STATUS_INVALID_VALUE = 7, STATUS_EXECUTION_FAILED = 13, STATUS_NOT_SUPPORTED = 15;

// What a device's library has a way for, of what is asked of it here.
int supported(const Description& o, const Layout& a, const Layout& b, const Layout& d) {
  bool half = a.type == R_16BF && b.type == R_16BF && (d.type == R_16BF || d.type == R_32F);
  bool single = a.type == R_32F && b.type == R_32F && d.type == R_32F;
  if (!half && !single) return STATUS_NOT_SUPPORTED;
  if (o.epilogue != DEFAULT && o.epilogue != BIAS && o.epilogue != BGRADB) return STATUS_NOT_SUPPORTED;
  if (o.epilogue == BGRADB && !half) return STATUS_NOT_SUPPORTED;
  if (o.epilogue != DEFAULT && (!o.bias || (o.bias_type >= 0 && o.bias_type != d.type))) return STATUS_NOT_SUPPORTED;
  return 0;
}
}  // namespace

extern "C" {
int cublasLtCreate(void** h) { return *h = new char, 0; }
int cublasLtDestroy(void* h) { return delete (char*)h, 0; }
int cublasLtMatrixLayoutCreate(void** l, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (ld < int64_t(rows)) return complain(STATUS_INVALID_VALUE, "a matrix of %llu rows with %lld between columns", (unsigned long long)rows, (long long)ld);
  return *l = new Layout{type, rows, columns, ld}, 0;
}
int cublasLtMatrixLayoutDestroy(void* l) { return delete (Layout*)l, 0; }
int cublasLtMatmulDescCreate(void** d, int, int) { return *d = new Description, 0; }
int cublasLtMatmulDescDestroy(void* d) { return delete (Description*)d, 0; }
int cublasLtMatmulDescSetAttribute(void* d, int attribute, const void* value, size_t n) {
  auto& o = *(Description*)d;
  int number = n == 4 ? *(const int*)value : 0;
  switch (attribute) {
    case TRANSA: o.ta = number; break;
    case TRANSB: o.tb = number; break;
    case EPILOGUE: o.epilogue = number; break;
    case BIAS_DATA_TYPE: o.bias_type = number; break;
    case BIAS_POINTER:
      if (n != 8) return STATUS_INVALID_VALUE;
      o.bias = *(const uint64_t*)value;
      break;
    default: return complain(STATUS_NOT_SUPPORTED, "attribute %d of a product", attribute);
  }
  return 0;
}
int cublasLtMatmulPreferenceCreate(void** p) { return *p = new char, 0; }
int cublasLtMatmulPreferenceDestroy(void* p) { return delete (char*)p, 0; }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return 0; }
int cublasLtMatmulAlgoGetHeuristic(void*, void* o, void* a, void* b, void*, void* d, void*, int, Heuristic* found, int* n) {
  *n = 0;
  if (int e = supported(*(Description*)o, *(Layout*)a, *(Layout*)b, *(Layout*)d)) return e;
  *found = Heuristic{{MARK}, 0, 0, 1};
  return *n = 1, 0;
}
int cublasLtMatmul(void*, void* desc, const float* alpha, const void* a, void* la, const void* b, void* lb, const float* beta, const void* c, void* lc,
                   void* d, void* ld, const Algorithm* algorithm, void*, size_t, void* stream) {
  Description o = *(Description*)desc;
  Layout x = *(Layout*)la, y = *(Layout*)lb, z = *(Layout*)lc, w = *(Layout*)ld;
  if (algorithm && algorithm->mark != MARK) return complain(STATUS_INVALID_VALUE, "an algorithm that the library did not give");
  if (int e = supported(o, x, y, w)) return e;
  uint64_t m = o.ta ? x.columns : x.rows, k = o.ta ? x.rows : x.columns, n = o.tb ? y.rows : y.columns, k2 = o.tb ? y.columns : y.rows;
  if (k != k2 || w.rows != m || w.columns != n || z.rows != m || z.columns != n || z.type != w.type)
    return complain(STATUS_INVALID_VALUE, "a product of (%d, %d) and (%d, %d) into (%d, %d)", int(m), int(k), int(k2), int(n), int(w.rows), int(w.columns));
  for (const void* p : {a, b, c, (const void*)d, (const void*)o.bias})
    if (p && !known(p)) return complain(STATUS_INVALID_VALUE, "a product of memory that is not the device's");
  int bias_type = o.bias_type < 0 ? w.type : o.bias_type;
  counts().launches++;
  Matrix none{}, bias{o.bias, bias_type, 1, 0};
  float by = *alpha, more = *beta;
  auto work = [=] {
    multiply(o.ta, o.tb, int(m), int(n), int(k), by, {(uint64_t)a, x.type, int(x.ld), 0}, {(uint64_t)b, y.type, int(y.ld), 0}, more,
             {(uint64_t)c, z.type, int(z.ld), 0}, {(uint64_t)d, w.type, int(w.ld), 0}, o.epilogue == BIAS ? bias : none,
             o.epilogue == BGRADB ? bias : none);
    return int(OK);
  };
  return enqueue(stream, work) ? STATUS_EXECUTION_FAILED : 0;
}
}
}  // namespace cuda_host
