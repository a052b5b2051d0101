// Layer normalisation, arXiv 1607.06450: a warp per row, whose values stay in registers. x (rows, width).
#include "real.cuh"

extern __shared__ float shared[];

// P packs of 16 bytes per lane hold a row; `width` is a multiple of a pack.
template <class T, int P>
__device__ void forward(const T* x, const float* gamma, const float* beta, T* y, float* means, float* rstds, int rows, int width, float eps) {
  constexpr int N = Pack<T>::N;
  int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x, packs = width / N;
  if (row >= rows) return;
  const T* in = x + size_t(row) * width;
  float v[P][N], sum = 0;
#pragma unroll
  for (int i = 0; i < P; i++) {
    int at = lane + 32 * i;
    if (at >= packs) continue;
    Pack<T> p = load(in + at * N);
#pragma unroll
    for (int k = 0; k < N; k++) v[i][k] = f32(p.v[k]), sum += v[i][k];
  }
  float mean = warp_sum(sum) / width, squares = 0;
#pragma unroll
  for (int i = 0; i < P; i++) {
    if (lane + 32 * i >= packs) continue;
#pragma unroll
    for (int k = 0; k < N; k++) v[i][k] -= mean, squares += v[i][k] * v[i][k];
  }
  float rstd = 1.f / sqrtf(warp_sum(squares) / width + eps);
#pragma unroll
  for (int i = 0; i < P; i++) {
    int at = lane + 32 * i;
    if (at >= packs) continue;
    Pack<T> p;
    float scale[N], shift[N];
    load_floats<N>(scale, gamma + at * N), load_floats<N>(shift, beta + at * N);
#pragma unroll
    for (int k = 0; k < N; k++) p.v[k] = real<T>(v[i][k] * rstd * scale[k] + shift[k]);
    store(y + size_t(row) * width + at * N, p);
  }
  if (lane == 0) means[row] = mean, rstds[row] = rstd;
}

// dx, to which `more` is added where it is not null: the gradient that reached x another way. Each block adds up its rows' gradients of gamma
// and beta in `partial` (blocks, 2 width).
template <class T, int P>
__device__ void backward(const T* x, const float* gamma, const float* means, const float* rstds, const T* g, const T* more, T* dx, float* partial,
                         int rows, int width) {
  constexpr int N = Pack<T>::N;
  int lane = threadIdx.x, warp = threadIdx.y, warps = blockDim.y, packs = width / N;
  float dgamma[P][N], dbeta[P][N];
#pragma unroll
  for (int i = 0; i < P; i++)
#pragma unroll
    for (int k = 0; k < N; k++) dgamma[i][k] = dbeta[i][k] = 0;
  for (int row = blockIdx.x * warps + warp; row < rows; row += gridDim.x * warps) {
    size_t first = size_t(row) * width;
    float mean = means[row], rstd = rstds[row], sum = 0, along = 0;
    float normal[P][N], d[P][N];
#pragma unroll
    for (int i = 0; i < P; i++) {
      int at = lane + 32 * i;
      if (at >= packs) continue;
      Pack<T> px = load(x + first + at * N), pg = load(g + first + at * N);
      float scale[N];
      load_floats<N>(scale, gamma + at * N);
#pragma unroll
      for (int k = 0; k < N; k++) {
        float gk = f32(pg.v[k]);
        normal[i][k] = (f32(px.v[k]) - mean) * rstd;
        d[i][k] = gk * scale[k];
        sum += d[i][k], along += d[i][k] * normal[i][k];
        dgamma[i][k] += gk * normal[i][k], dbeta[i][k] += gk;
      }
    }
    sum = warp_sum(sum) / width, along = warp_sum(along) / width;
#pragma unroll
    for (int i = 0; i < P; i++) {
      int at = lane + 32 * i;
      if (at >= packs) continue;
      Pack<T> p, old;
      if (more) old = load(more + first + at * N);
#pragma unroll
      for (int k = 0; k < N; k++) {
        float v = rstd * (d[i][k] - sum - normal[i][k] * along);
        p.v[k] = real<T>(more ? v + f32(old.v[k]) : v);
      }
      store(dx + first + at * N, p);
    }
  }
  float* out = partial + size_t(blockIdx.x) * 2 * width;
  int thread = warp * 32 + lane, threads = warps * 32;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < P; i++) {
      int at = lane + 32 * i;
      if (at >= packs) continue;
#pragma unroll
      for (int k = 0; k < N; k++) shared[warp * width + at * N + k] = half ? dbeta[i][k] : dgamma[i][k];
    }
    __syncthreads();
    for (int c = thread; c < width; c += threads) {
      float sum = 0;
      for (int w = 0; w < warps; w++) sum += shared[w * width + c];
      out[half * width + c] = sum;
    }
  }
}

// Any width: rows are read again from memory.
template <class T>
__device__ void forward_any(const T* x, const float* gamma, const float* beta, T* y, float* means, float* rstds, int rows, int width, float eps) {
  int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;
  const T* in = x + size_t(row) * width;
  float sum = 0, squares = 0;
  for (int c = lane; c < width; c += 32) sum += f32(in[c]);
  float mean = warp_sum(sum) / width;
  for (int c = lane; c < width; c += 32) {
    float v = f32(in[c]) - mean;
    squares += v * v;
  }
  float rstd = 1.f / sqrtf(warp_sum(squares) / width + eps);
  for (int c = lane; c < width; c += 32) y[size_t(row) * width + c] = real<T>((f32(in[c]) - mean) * rstd * gamma[c] + beta[c]);
  if (lane == 0) means[row] = mean, rstds[row] = rstd;
}

template <class T>
__device__ void backward_any(const T* x, const float* gamma, const float* means, const float* rstds, const T* g, const T* more, T* dx, int rows,
                             int width) {
  int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;
  size_t first = size_t(row) * width;
  float mean = means[row], rstd = rstds[row], sum = 0, along = 0;
  for (int c = lane; c < width; c += 32) {
    float d = f32(g[first + c]) * gamma[c];
    sum += d, along += d * (f32(x[first + c]) - mean) * rstd;
  }
  sum = warp_sum(sum) / width, along = warp_sum(along) / width;
  for (int c = lane; c < width; c += 32) {
    float v = rstd * (f32(g[first + c]) * gamma[c] - sum - (f32(x[first + c]) - mean) * rstd * along);
    dx[first + c] = real<T>(more ? v + f32(more[first + c]) : v);
  }
}

// The gradients of gamma and beta over a share of the rows: partial (blocks in y, 2 width).
template <class T>
__device__ void parameters_any(const T* x, const float* means, const float* rstds, const T* g, float* partial, int rows, int width) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= width) return;
  float dgamma = 0, dbeta = 0;
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    size_t at = size_t(row) * width + c;
    float gc = f32(g[at]);
    dgamma += gc * (f32(x[at]) - means[row]) * rstds[row], dbeta += gc;
  }
  partial[size_t(blockIdx.y) * 2 * width + c] = dgamma;
  partial[size_t(blockIdx.y) * 2 * width + width + c] = dbeta;
}

#define KERNELS(NAME, T, P)                                                                                                                        \
  extern "C" __global__ void __launch_bounds__(128) layer_norm_forward_##NAME##_##P(const T* x, const float* gamma, const float* beta, T* y,       \
                                                                                    float* means, float* rstds, int rows, int width, float eps) { \
    forward<T, P>(x, gamma, beta, y, means, rstds, rows, width, eps);                                                                              \
  }                                                                                                                                                \
  extern "C" __global__ void __launch_bounds__(256) layer_norm_backward_##NAME##_##P(const T* x, const float* gamma, const float* means,           \
                                                                                     const float* rstds, const T* g, const T* more, T* dx,         \
                                                                                     float* partial, int rows, int width) {                        \
    backward<T, P>(x, gamma, means, rstds, g, more, dx, partial, rows, width);                                                                     \
  }
KERNELS(bf16, bf16, 1)
KERNELS(bf16, bf16, 2)
KERNELS(bf16, bf16, 3)
KERNELS(bf16, bf16, 4)
KERNELS(bf16, bf16, 5)
KERNELS(bf16, bf16, 6)
KERNELS(f32, float, 2)
KERNELS(f32, float, 4)
KERNELS(f32, float, 6)
KERNELS(f32, float, 8)
KERNELS(f32, float, 10)

#define ANY(NAME, T)                                                                                                                            \
  extern "C" __global__ void layer_norm_forward_##NAME##_any(const T* x, const float* gamma, const float* beta, T* y, float* means,             \
                                                             float* rstds, int rows, int width, float eps) {                                    \
    forward_any<T>(x, gamma, beta, y, means, rstds, rows, width, eps);                                                                          \
  }                                                                                                                                             \
  extern "C" __global__ void layer_norm_backward_##NAME##_any(const T* x, const float* gamma, const float* means, const float* rstds,           \
                                                              const T* g, const T* more, T* dx, int rows, int width) {                          \
    backward_any<T>(x, gamma, means, rstds, g, more, dx, rows, width);                                                                          \
  }                                                                                                                                             \
  extern "C" __global__ void layer_norm_parameters_##NAME##_any(const T* x, const float* means, const float* rstds, const T* g, float* partial, \
                                                                int rows, int width) {                                                          \
    parameters_any<T>(x, means, rstds, g, partial, rows, width);                                                                                \
  }
ANY(bf16, bf16)
ANY(f32, float)
