// Batch normalisation, arXiv 1502.03167, of x (rows, channels), with ReLU and a residual behind it. Blocks of (packs, rows) threads: a thread
// keeps V channels and walks over rows, so that what belongs to channels stays in registers.
#include "real.cuh"

template <int V>
__device__ void channels_of(float to[V], const float* from, int c, float without) {
#pragma unroll
  for (int k = 0; k < V; k++) to[k] = from ? from[c + k] : without;
}

extern __shared__ float shared[];

// Count, mean and sum of squared distances of two sets, joined (T. Chan et al. 1979).
__device__ inline void join(float& n, float& mean, float& m2, float n_b, float mean_b, float m2_b) {
  float all = n + n_b;
  if (n_b == 0) return;
  float d = mean_b - mean;
  mean += d * (n_b / all), m2 += m2_b + d * d * (n * n_b / all), n = all;
}

// For each block of rows: the mean of each channel and the sum of squared distances from it, partial (blocks in y, 2, channels). The rows of
// block b are b, b + blocks, ... of groups of blockDim.y rows.
template <class T, int V>
__device__ void statistics(const T* x, float* partial, size_t rows, int channels) {
  int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  bool there = c < channels;
  // Sums of distances from the first value that the thread sees, which is near the mean.
  float first[V] = {}, sum[V] = {}, squares[V] = {}, n = 0;
  if (there)
    for (size_t row = size_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += size_t(gridDim.y) * blockDim.y, n++) {
      Some<T, V> p = some<T, V>(x + row * channels + c);
#pragma unroll
      for (int k = 0; k < V; k++) {
        float v = f32(p.v[k]);
        if (n == 0) first[k] = v;
        v -= first[k], sum[k] += v, squares[k] += v * v;
      }
    }
  // shared (threads, 2 V + 1)
  float* mine = shared + (threadIdx.y * blockDim.x + threadIdx.x) * (2 * V + 1);
#pragma unroll
  for (int k = 0; k < V; k++) {
    float mean = n > 0 ? sum[k] / n : 0;
    mine[2 * k] = first[k] + mean, mine[2 * k + 1] = n > 0 ? squares[k] - sum[k] * mean : 0;
  }
  mine[2 * V] = n;
  __syncthreads();
  for (int i = threadIdx.y; i < V; i += blockDim.y) {
    if (!there) continue;
    float count = 0, mean = 0, m2 = 0;
    for (int y = 0; y < blockDim.y; y++) {
      const float* other = shared + (y * blockDim.x + threadIdx.x) * (2 * V + 1);
      join(count, mean, m2, other[2 * V], other[2 * i], other[2 * i + 1]);
    }
    float* out = partial + size_t(blockIdx.y) * 2 * channels;
    out[c + i] = mean, out[channels + c + i] = m2;
  }
}

// The parts joined: mean, biased variance, 1 / sqrt(variance + eps). Blocks of (32, ..) threads, a warp per channel.
extern "C" __global__ void batch_norm_join(const float* partial, float* mean, float* var, float* rstd, size_t rows, int channels, int parts,
                                           int tall, float eps) {
  int c = blockIdx.x * blockDim.y + threadIdx.y;
  if (c >= channels) return;
  float n = 0, m = 0, m2 = 0;
  size_t round = size_t(parts) * tall, whole = rows / round, left = rows % round;
  for (int p = threadIdx.x; p < parts; p += 32) {
    // How many rows fell to this part.
    size_t from = size_t(p) * tall, count = whole * tall + (left > from ? min(size_t(tall), left - from) : 0);
    const float* part = partial + size_t(p) * 2 * channels + c;
    join(n, m, m2, float(count), part[0], part[channels]);
  }
  for (int d = 16; d; d >>= 1) {
    float n_b = __shfl_xor_sync(~0u, n, d), m_b = __shfl_xor_sync(~0u, m, d), m2_b = __shfl_xor_sync(~0u, m2, d);
    // Only the lower half's result counts, whose order is the same in every run.
    join(n, m, m2, n_b, m_b, m2_b);
  }
  if (threadIdx.x) return;
  float v = m2 / float(rows);
  mean[c] = m, var[c] = v, rstd[c] = float(1.0 / sqrt(double(v) + double(eps)));
}

// The running statistics move towards those of the batch, unless one of these is no number. One block.
extern "C" __global__ void batch_norm_running(const float* mean, const float* var, float* running_mean, float* running_var, int channels,
                                              float momentum, float unbiased) {
  float bad = 0;
  for (int c = threadIdx.x; c < channels; c += blockDim.x) bad += !isfinite(mean[c]) + !isfinite(var[c]);
  if (block_sum(bad) > 0) return;
  for (int c = threadIdx.x; c < channels; c += blockDim.x) {
    running_mean[c] = (1.f - momentum) * running_mean[c] + momentum * mean[c];
    running_var[c] = (1.f - momentum) * running_var[c] + momentum * (unbiased * var[c]);
  }
}

extern "C" __global__ void batch_norm_rstd(const float* var, float* rstd, int channels, float eps) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c < channels) rstd[c] = float(1.0 / sqrt(double(var[c]) + double(eps)));
}

// y = (x - mean) rstd gamma + beta, plus `residual`, and the larger of that and 0 where `relu` says so; what is null is left out.
template <class T, int V>
__device__ void forward(const T* x, const float* mean, const float* rstd, const float* gamma, const float* beta, const T* residual, T* y,
                        size_t rows, int channels, int relu) {
  int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (c >= channels) return;
  float m[V], scale[V], shift[V];
  channels_of<V>(m, mean, c, 0), channels_of<V>(scale, gamma, c, 1), channels_of<V>(shift, beta, c, 0);
#pragma unroll
  for (int k = 0; k < V; k++) scale[k] *= rstd[c + k];
  for (size_t row = size_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += size_t(gridDim.y) * blockDim.y) {
    size_t at = row * channels + c;
    Some<T, V> p = some<T, V>(x + at), r;
    if (residual) r = some<T, V>(residual + at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      float v = (f32(p.v[k]) - m[k]) * scale[k] + shift[k];
      if (residual) v += f32(r.v[k]);
      // A number that is none stays one.
      p.v[k] = real<T>(relu && v <= 0 ? 0.f : v);
    }
    put(y + at, p);
  }
}

// The sums over a block's rows of g and of g times the normalised values, g where y is above 0 if y is there: partial (blocks in y, 2, channels).
template <class T, int V>
__device__ void sums(const T* x, const float* mean, const float* rstd, const T* y, const T* g, float* partial, size_t rows, int channels) {
  int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  bool there = c < channels;
  float m[V] = {}, r[V] = {}, sum[V] = {}, along[V] = {};
  if (there) {
    channels_of<V>(m, mean, c, 0), channels_of<V>(r, rstd, c, 1);
    for (size_t row = size_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += size_t(gridDim.y) * blockDim.y) {
      size_t at = row * channels + c;
      Some<T, V> px = some<T, V>(x + at), pg = some<T, V>(g + at), py;
      if (y) py = some<T, V>(y + at);
#pragma unroll
      for (int k = 0; k < V; k++) {
        float d = y && f32(py.v[k]) <= 0 ? 0.f : f32(pg.v[k]);
        sum[k] += d, along[k] += d * ((f32(px.v[k]) - m[k]) * r[k]);
      }
    }
  }
  // shared (threads, 2 V + 1)
  float* mine = shared + (threadIdx.y * blockDim.x + threadIdx.x) * (2 * V + 1);
#pragma unroll
  for (int k = 0; k < V; k++) mine[2 * k] = along[k], mine[2 * k + 1] = sum[k];
  __syncthreads();
  for (int i = threadIdx.y; i < 2 * V; i += blockDim.y) {
    if (!there) continue;
    float all = 0;
    for (int w = 0; w < blockDim.y; w++) all += shared[(w * blockDim.x + threadIdx.x) * (2 * V + 1) + i];
    partial[(size_t(blockIdx.y) * 2 + (i & 1)) * channels + c + i / 2] = all;
  }
}

// The parts' sums, in order: sums (2, channels), those along the normalised values first, which are the gradients of gamma and beta; what is
// null is left out, and gradients are added to what is there where the flags say so. Blocks of (32, 8) threads.
extern "C" __global__ void batch_norm_sums(const float* partial, float* sums, float* dgamma, float* dbeta, int parts, int channels, int add_gamma,
                                           int add_beta) {
  __shared__ float lines[8][33];
  int at = blockIdx.x * 32 + threadIdx.x, width = 2 * channels;
  float sum = 0;
  if (at < width)
    for (int p = threadIdx.y; p < parts; p += 8) sum += partial[size_t(p) * width + at];
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || at >= width) return;
  float all = 0;
  for (int w = 0; w < 8; w++) all += lines[w][threadIdx.x];
  sums[at] = all;
  float* out = at < channels ? dgamma : dbeta;
  int c = at % channels, add = at < channels ? add_gamma : add_beta;
  if (out) out[c] = add ? out[c] + all : all;
}

// dx = gamma rstd (g - sum / rows - normalised along / rows), or gamma rstd g where `sums` is null; plus `more`. g is masked as in `sums`, and
// written to `masked` where that is not null.
template <class T, int V>
__device__ void backward(const T* x, const float* mean, const float* rstd, const float* gamma, const T* y, const T* g, const float* sums,
                         const T* more, T* dx, T* masked, size_t rows, int channels) {
  int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
  if (c >= channels) return;
  float m[V], r[V], scale[V], along[V], sum[V];
  channels_of<V>(m, mean, c, 0), channels_of<V>(r, rstd, c, 1), channels_of<V>(scale, gamma, c, 1);
  channels_of<V>(along, sums, c, 0), channels_of<V>(sum, sums ? sums + channels : sums, c, 0);
#pragma unroll
  for (int k = 0; k < V; k++) scale[k] *= r[k], along[k] *= r[k] / rows, sum[k] /= rows;
  for (size_t row = size_t(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += size_t(gridDim.y) * blockDim.y) {
    size_t at = row * channels + c;
    Some<T, V> px = some<T, V>(x + at), pg = some<T, V>(g + at), py, old;
    if (y) py = some<T, V>(y + at);
    if (more) old = some<T, V>(more + at);
#pragma unroll
    for (int k = 0; k < V; k++) {
      if (y && f32(py.v[k]) <= 0) pg.v[k] = real<T>(0.f);
      float v = scale[k] * (f32(pg.v[k]) - sum[k] - (f32(px.v[k]) - m[k]) * along[k]);
      px.v[k] = real<T>(more ? v + f32(old.v[k]) : v);
    }
    if (dx) put(dx + at, px);
    if (masked) put(masked + at, pg);
  }
}

#define KERNELS(NAME, T, V)                                                                                                                     \
  extern "C" __global__ void __launch_bounds__(256) batch_norm_statistics_##NAME(const T* x, float* partial, size_t rows, int channels) {      \
    statistics<T, V>(x, partial, rows, channels);                                                                                               \
  }                                                                                                                                             \
  extern "C" __global__ void __launch_bounds__(256) batch_norm_forward_##NAME(const T* x, const float* mean, const float* rstd,                \
                                                                              const float* gamma, const float* beta, const T* residual, T* y,  \
                                                                              size_t rows, int channels, int relu) {                           \
    forward<T, V>(x, mean, rstd, gamma, beta, residual, y, rows, channels, relu);                                                               \
  }                                                                                                                                             \
  extern "C" __global__ void __launch_bounds__(256) batch_norm_partial_sums_##NAME(const T* x, const float* mean, const float* rstd,           \
                                                                                   const T* y, const T* g, float* partial, size_t rows,        \
                                                                                   int channels) {                                             \
    sums<T, V>(x, mean, rstd, y, g, partial, rows, channels);                                                                                   \
  }                                                                                                                                             \
  extern "C" __global__ void __launch_bounds__(256) batch_norm_backward_##NAME(                                                                \
      const T* x, const float* mean, const float* rstd, const float* gamma, const T* y, const T* g, const float* sums, const T* more, T* dx,   \
      T* masked, size_t rows, int channels) {                                                                                                   \
    backward<T, V>(x, mean, rstd, gamma, y, g, sums, more, dx, masked, rows, channels);                                                         \
  }
KERNELS(bf16, bf16, 8)
KERNELS(f32, float, 4)
KERNELS(bf16_any, bf16, 1)
KERNELS(f32_any, float, 1)
