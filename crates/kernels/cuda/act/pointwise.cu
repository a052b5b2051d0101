// Activations that need one number alone, and their gradients from the input: each is a pair of functions, value and slope.
#include "real.cuh"

struct Relu {
  // A number that is none stays one, and passes the gradient.
  static __device__ float value(float x, float) { return x < 0 ? 0.f : x; }
  static __device__ float slope(float x, float) { return x <= 0 ? 0.f : 1.f; }
};
struct LeakyRelu {
  static __device__ float value(float x, float slope) { return x > 0 ? x : slope * x; }
  static __device__ float slope(float x, float slope) { return x > 0 ? 1.f : slope; }
};
struct Sigmoid {
  static __device__ float value(float x, float) { return 1.f / (1.f + expf(-x)); }
  static __device__ float slope(float x, float) {
    float s = value(x, 0);
    return s * (1.f - s);
  }
};
struct Silu {
  static __device__ float value(float x, float) { return x / (1.f + expf(-x)); }
  static __device__ float slope(float x, float) {
    float s = Sigmoid::value(x, 0);
    return s * (1.f + x * (1.f - s));
  }
};
struct Tanh {
  static __device__ float value(float x, float) { return tanhf(x); }
  static __device__ float slope(float x, float) {
    float t = tanhf(x);
    return 1.f - t * t;
  }
};
struct Softplus {
  static __device__ float value(float x, float) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }
  static __device__ float slope(float x, float) { return Sigmoid::value(x, 0); }
};

// y of x, or the gradient of x where g, that of y, is there. 16 bytes per thread.
template <class T, class F>
__device__ void each(const T* x, const T* g, T* y, size_t n, float slope) {
  constexpr int N = Pack<T>::N;
  size_t at = (size_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= n) return;
  auto one = [=](float x, float g_x) { return g ? g_x * F::slope(x, slope) : F::value(x, slope); };
  if (n - at < N) {
    for (; at < n; at++) y[at] = real<T>(one(f32(x[at]), g ? f32(g[at]) : 0.f));
    return;
  }
  Pack<T> p = load(x + at), q;
  if (g) q = load(g + at);
#pragma unroll
  for (int k = 0; k < N; k++) p.v[k] = real<T>(one(f32(p.v[k]), g ? f32(q.v[k]) : 0.f));
  store(y + at, p);
}

#define KERNEL(NAME, F, TYPE, T) \
  extern "C" __global__ void act_##NAME##_##TYPE(const T* x, const T* g, T* y, size_t n, float slope) { each<T, F>(x, g, y, n, slope); }
#define KERNELS(NAME, F) KERNEL(NAME, F, bf16, bf16) KERNEL(NAME, F, f32, float)
KERNELS(relu, Relu)
KERNELS(leaky_relu, LeakyRelu)
KERNELS(sigmoid, Sigmoid)
KERNELS(silu, Silu)
KERNELS(tanh, Tanh)
KERNELS(softplus, Softplus)
