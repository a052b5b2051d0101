// Softmax cross-entropy with classes or soft targets, and binary cross-entropy, each with its gradient.
#include "real.cuh"

// A block per row. losses (B); d (B, K) = (softmax - target) / B. Targets are `soft` (B, K), or where it is null the class `labels` (B), smoothed.
template <class T>
__device__ void cross_entropy(const T* x, const uint32_t* labels, const float* soft, float smoothing, T* d, float* losses, int classes,
                              float factor) {
  size_t row = blockIdx.x;
  const T* in = x + row * classes;
  float most = -INFINITY, sum = 0;
  for (int c = threadIdx.x; c < classes; c += blockDim.x) most = fmaxf(most, f32(in[c]));
  most = block_max(most);
  for (int c = threadIdx.x; c < classes; c += blockDim.x) sum += expf(f32(in[c]) - most);
  sum = block_sum(sum);
  float log_sum = logf(sum), loss = 0, weight = 0;
  auto target = [&](int c) { return soft ? soft[row * classes + c] : smoothing / classes + (uint32_t(c) == labels[row] ? 1.f - smoothing : 0.f); };
  for (int c = threadIdx.x; c < classes; c += blockDim.x) {
    float q = target(c);
    weight += q;
    // A class with target 0 does not contribute, even where its logit is minus infinity.
    if (q != 0.f) loss -= q * (f32(in[c]) - most - log_sum);
  }
  weight = block_sum(weight);
  loss = block_sum(loss);
  for (int c = threadIdx.x; c < classes; c += blockDim.x)
    d[row * classes + c] = real<T>((expf(f32(in[c]) - most) / sum * weight - target(c)) * factor);
  if (threadIdx.x == 0) losses[row] = loss;
}

// losses (blocks) are the blocks' sums; d = (sigmoid - target) factor.
template <class T>
__device__ void binary(const T* x, const float* targets, T* d, float* losses, size_t n, float factor) {
  float loss = 0;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    float v = f32(x[i]), q = targets[i], e = expf(-fabsf(v));
    loss += (v < 0 ? 0.f : v) - v * q + log1pf(e);
    d[i] = real<T>(((v < 0 ? e : 1.f) / (1.f + e) - q) * factor);
  }
  loss = block_sum(loss);
  if (threadIdx.x == 0) losses[blockIdx.x] = loss;
}

#define KERNELS(NAME, T)                                                                                                                         \
  extern "C" __global__ void cross_entropy_##NAME(const T* x, const uint32_t* labels, const float* soft, float smoothing, T* d, float* losses,   \
                                                  int classes, float factor) {                                                                   \
    cross_entropy(x, labels, soft, smoothing, d, losses, classes, factor);                                                                       \
  }                                                                                                                                              \
  extern "C" __global__ void binary_cross_entropy_##NAME(const T* x, const float* targets, T* d, float* losses, size_t n, float factor) {        \
    binary(x, targets, d, losses, n, factor);                                                                                                    \
  }
KERNELS(bf16, bf16)
KERNELS(f32, float)
