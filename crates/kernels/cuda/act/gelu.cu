// GELU, arXiv 1606.08415, exact and by tanh, and its gradient.
#include "real.cuh"

// Phi(x), the normal distribution's share below x, and its density times x. In bf16 by Abramowitz and Stegun 7.1.26, whose error of 1.5e-7 is
// nothing there: one exponential serves both.
template <class T>
__device__ void normal(float x, float* share, float* density_x);
template <>
__device__ void normal<float>(float x, float* share, float* density_x) {
  *share = 0.5f + 0.5f * erff(x * 0.70710678118654752f);
  *density_x = x * 0.39894228040143268f * expf(-0.5f * x * x);
}
template <>
__device__ void normal<bf16>(float x, float* share, float* density_x) {
  float a = fabsf(x), e = __expf(-0.5f * x * x), t = __fdividef(1.f, 1.f + 0.3275911f * 0.70710678118654752f * a);
  float tail = 0.5f * e * t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  *share = x < 0 ? tail : 1.f - tail;
  *density_x = x * 0.39894228040143268f * e;
}

template <class T, bool TANH>
__device__ float gelu(float x) {
  if (TANH) return 0.5f * x * (1.f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
  float share, density_x;
  normal<T>(x, &share, &density_x);
  // Phi of minus infinity is 0, and 0 times infinity is no number.
  return share == 0 ? 0.f : x * share;
}
template <class T, bool TANH>
__device__ float slope(float x) {
  if (TANH) {
    float t = tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * 0.79788456080286536f * (1.f + 3.f * 0.044715f * x * x);
  }
  float share, density_x;
  normal<T>(x, &share, &density_x);
  return share + density_x;
}

template <class T, class F>
__device__ void each(size_t n, F f) {
  constexpr int N = Pack<T>::N;
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at < n) f(at, n - at < N ? int(n - at) : N);
}

template <class T, bool TANH>
__device__ void forward(const T* x, T* y, size_t n) {
  constexpr int N = Pack<T>::N;
  each<T>(n, [&](size_t at, int count) {
    if (count < N) {
      for (int k = 0; k < count; k++) y[at + k] = real<T>(gelu<T, TANH>(f32(x[at + k])));
      return;
    }
    Pack<T> p = load(x + at);
#pragma unroll
    for (int k = 0; k < N; k++) p.v[k] = real<T>(gelu<T, TANH>(f32(p.v[k])));
    store(y + at, p);
  });
}

template <class T, bool TANH>
__device__ void backward(const T* x, const T* g, T* dx, size_t n) {
  constexpr int N = Pack<T>::N;
  each<T>(n, [&](size_t at, int count) {
    if (count < N) {
      for (int k = 0; k < count; k++) dx[at + k] = real<T>(f32(g[at + k]) * slope<T, TANH>(f32(x[at + k])));
      return;
    }
    Pack<T> p = load(x + at), q = load(g + at);
#pragma unroll
    for (int k = 0; k < N; k++) p.v[k] = real<T>(f32(q.v[k]) * slope<T, TANH>(f32(p.v[k])));
    store(dx + at, p);
  });
}

#define KERNELS(NAME, T)                                                                                                                    \
  extern "C" __global__ void gelu_erf_forward_##NAME(const T* x, T* y, size_t n) { forward<T, false>(x, y, n); }                           \
  extern "C" __global__ void gelu_tanh_forward_##NAME(const T* x, T* y, size_t n) { forward<T, true>(x, y, n); }                           \
  extern "C" __global__ void gelu_erf_backward_##NAME(const T* x, const T* g, T* dx, size_t n) { backward<T, false>(x, g, dx, n); }         \
  extern "C" __global__ void gelu_tanh_backward_##NAME(const T* x, const T* g, T* dx, size_t n) { backward<T, true>(x, g, dx, n); }
KERNELS(bf16, bf16)
KERNELS(f32, float)
