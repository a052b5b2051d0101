// The 16-bit floats of CUDA: stored in 16 bits, computed in f32 and rounded to nearest, ties to even.
#pragma once

namespace cuda_host {
inline uint16_t to_bf16(float f) {
  uint32_t u = bits<uint32_t>(f);
  return (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float from_bf16(uint16_t h) { return bits<float>(uint32_t(h) << 16); }
inline uint16_t to_f16(float f) { return bits<uint16_t>(_Float16(f)); }
inline float from_f16(uint16_t h) { return float(bits<_Float16>(h)); }
}  // namespace cuda_host

#define CUDA_HOST_REAL16(R, ENCODE, DECODE)                                                        \
  struct R {                                                                                       \
    uint16_t x;                                                                                    \
    R() = default;                                                                                 \
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>                          \
    R(T v) : x(ENCODE(float(v))) {}                                                                \
    operator float() const { return DECODE(x); }                                                   \
    R& operator+=(R o) { return *this = R(float(*this) + float(o)); }                              \
    R& operator-=(R o) { return *this = R(float(*this) - float(o)); }                              \
    R& operator*=(R o) { return *this = R(float(*this) * float(o)); }                              \
    R& operator/=(R o) { return *this = R(float(*this) / float(o)); }                              \
  };                                                                                               \
  inline R operator+(R a, R b) { return R(float(a) + float(b)); }                                  \
  inline R operator-(R a, R b) { return R(float(a) - float(b)); }                                  \
  inline R operator*(R a, R b) { return R(float(a) * float(b)); }                                  \
  inline R operator/(R a, R b) { return R(float(a) / float(b)); }                                  \
  inline R operator-(R a) { return R(-float(a)); }                                                 \
  inline bool operator<(R a, R b) { return float(a) < float(b); }                                  \
  inline bool operator>(R a, R b) { return float(a) > float(b); }                                  \
  inline bool operator<=(R a, R b) { return float(a) <= float(b); }                                \
  inline bool operator>=(R a, R b) { return float(a) >= float(b); }                                \
  inline bool operator==(R a, R b) { return float(a) == float(b); }                                \
  inline bool operator!=(R a, R b) { return float(a) != float(b); }                                \
  inline bool __hisnan(R a) { return std::isnan(float(a)); }                                       \
  inline R __hmax_nan(R a, R b) { return std::isnan(float(a)) || float(a) > float(b) ? a : b; }    \
  inline R __hmin_nan(R a, R b) { return std::isnan(float(a)) || float(a) < float(b) ? a : b; }    \
  inline R hsqrt(R a) { return R(sqrtf(a)); }                                                      \
  inline R hcos(R a) { return R(cosf(a)); }                                                        \
  inline R hsin(R a) { return R(sinf(a)); }                                                        \
  inline R hlog(R a) { return R(logf(a)); }                                                        \
  inline R hexp(R a) { return R(expf(a)); }                                                        \
  inline R __habs(R a) { return R(fabsf(a)); }
CUDA_HOST_REAL16(__half, cuda_host::to_f16, cuda_host::from_f16)
CUDA_HOST_REAL16(__nv_bfloat16, cuda_host::to_bf16, cuda_host::from_bf16)
using half = __half;
struct alignas(4) half2 {
  half x, y;
};
using __half2 = half2;
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
#define CUDA_HOST_PAIR(P)                                                                            \
  inline P __hadd2(P a, P b) { return {a.x + b.x, a.y + b.y}; }                                      \
  inline P __hsub2(P a, P b) { return {a.x - b.x, a.y - b.y}; }                                      \
  inline P __hmul2(P a, P b) { return {a.x * b.x, a.y * b.y}; }                                      \
  inline P __h2div(P a, P b) { return {a.x / b.x, a.y / b.y}; }                                      \
  inline P __hmax2(P a, P b) { return {a.x > b.x ? a.x : b.x, a.y > b.y ? a.y : b.y}; }              \
  inline P __hmin2(P a, P b) { return {a.x < b.x ? a.x : b.x, a.y < b.y ? a.y : b.y}; }
CUDA_HOST_PAIR(half2)
CUDA_HOST_PAIR(__nv_bfloat162)

inline float __half2float(__half h) { return h; }
inline __half __float2half(float f) { return f; }
inline __half __float2half_rn(float f) { return f; }
inline unsigned short __half_as_ushort(__half h) { return h.x; }
inline __half __ushort_as_half(unsigned short s) { return cuda_host::bits<__half>(s); }
inline float __bfloat162float(__nv_bfloat16 h) { return h; }
inline __nv_bfloat16 __float2bfloat16(float f) { return f; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return f; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short s) { return cuda_host::bits<__nv_bfloat16>(s); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 p) { return {p.x, p.y}; }

// 8-bit floats appear in candle's sources; nothing of ours uses them.
struct __half_raw {
  uint16_t x;
};
inline float __half2float(__half_raw h) { return cuda_host::from_f16(h.x); }
struct __nv_fp8_e4m3 {
  uint8_t __x;
  __nv_fp8_e4m3() = default;
  explicit __nv_fp8_e4m3(float) { abort(); }
};
enum { __NV_E4M3 };
inline __half_raw __nv_cvt_fp8_to_halfraw(uint8_t, int) { abort(); }
