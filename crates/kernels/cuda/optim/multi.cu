// Optimizers over many tensors in one launch. A table has a line per tensor; `starts` (tensors + 1) are the tensors' first blocks.
#include "real.cuh"

constexpr int CHUNK = 2048;  // values per block of 256 threads

struct Line {
  float* param;
  const float* grad;
  float* slots[2];
  uint64_t n;
  float lr, keep, coupled, unused;
};

// The tensor of this block, and the first of its values there.
__device__ inline const Line& find(const Line* table, const uint32_t* starts, int tensors, uint64_t* first) {
  int low = 0, high = tensors - 1;
  while (low < high) {
    int middle = (low + high + 1) / 2;
    if (starts[middle] <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  *first = uint64_t(blockIdx.x - starts[low]) * CHUNK;
  return table[low];
}
// Calls f with four values at a time, or with single ones at the end and where a tensor's address is not a pack's.
template <class F>
__device__ void each(const Line& t, uint64_t first, F f) {
  uint64_t end = first + CHUNK < t.n ? first + CHUNK : t.n;
  bool packs = ((uint64_t(t.param) | uint64_t(t.grad) | uint64_t(t.slots[0]) | uint64_t(t.slots[1])) & 15) == 0;
  for (uint64_t i = first + threadIdx.x * 4; i < end; i += blockDim.x * 4) {
    if (packs && i + 4 <= end) {
      f(i, true);
    } else {
      for (uint64_t k = i; k < i + 4 && k < end; k++) f(k, false);
    }
  }
}
// update(p, g, slots...) on each value; S slots are read and written.
template <int S, class F>
__device__ void update(const Line* table, const uint32_t* starts, int tensors, const float* factor, F step) {
  uint64_t first;
  const Line& t = find(table, starts, tensors, &first);
  float by = factor ? factor[0] : 1.f;
  // Gradients that are not finite change nothing.
  if (factor && factor[1] == 0.f) return;
  each(t, first, [&](uint64_t i, bool pack) {
    if (pack) {
      Pack<float> p = load(t.param + i), g = load(t.grad + i), s[2];
#pragma unroll
      for (int j = 0; j < S; j++) s[j] = load(t.slots[j] + i);
#pragma unroll
      for (int k = 0; k < 4; k++) step(t, p.v[k], g.v[k] * by, s[0].v[k], s[1].v[k]);
      store(t.param + i, p);
#pragma unroll
      for (int j = 0; j < S; j++) store(t.slots[j] + i, s[j]);
      return;
    }
    float p = t.param[i], s[2];
#pragma unroll
    for (int j = 0; j < S; j++) s[j] = t.slots[j][i];
    step(t, p, t.grad[i] * by, s[0], s[1]);
    t.param[i] = p;
#pragma unroll
    for (int j = 0; j < S; j++) t.slots[j][i] = s[j];
  });
}

// The formulas of `candlelight-optim`. A line's `keep` is what the parameter is multiplied by, `coupled` the share of it that is added to the
// gradient.

// AdamW and Adam; a line's `lr` is the rate divided by 1 - b1^t.
extern "C" __global__ void __launch_bounds__(256) adamw(const Line* table, const uint32_t* starts, int tensors, const float* factor, float take1,
                                                        float b2, float take2, float root, float eps) {
  update<2>(table, starts, tensors, factor, [=](const Line& t, float& p, float g, float& m, float& v) {
    g = fmaf(p, t.coupled, g);
    m += (g - m) * take1;
    v = fmaf(g * g, take2, v * b2);
    p = p * t.keep - m / fmaf(sqrtf(v), root, eps) * t.lr;
  });
}
extern "C" __global__ void __launch_bounds__(256) sgd(const Line* table, const uint32_t* starts, int tensors, const float* factor, float momentum,
                                                      int nesterov) {
  update<1>(table, starts, tensors, factor, [=](const Line& t, float& p, float g, float& v, float&) {
    g = fmaf(p, t.coupled, g);
    v = fmaf(v, momentum, g);
    p = p * t.keep - (nesterov ? fmaf(v, momentum, g) : v) * t.lr;
  });
}
extern "C" __global__ void __launch_bounds__(256) lion(const Line* table, const uint32_t* starts, int tensors, const float* factor, float take1,
                                                       float take2) {
  update<1>(table, starts, tensors, factor, [=](const Line& t, float& p, float g, float& m, float&) {
    float u = m + (g - m) * take1;
    p = p * t.keep - (u > 0 ? t.lr : u < 0 ? -t.lr : u * 0.f);
    m += (g - m) * take2;
  });
}
// A moving average: the parameter's place has the average, the gradient's the value.
extern "C" __global__ void __launch_bounds__(256) average(const Line* table, const uint32_t* starts, int tensors, const float* factor,
                                                          float take) {
  // The gradient's place has no gradient: only whether there was an update counts.
  if (factor && factor[1] == 0.f) return;
  update<0>(table, starts, tensors, nullptr, [=](const Line&, float& p, float g, float&, float&) { p += (g - p) * take; });
}

// Sums of squares of the gradients: partial (blocks).
extern "C" __global__ void __launch_bounds__(256) squares(const Line* table, const uint32_t* starts, int tensors, float* partial) {
  uint64_t first;
  const Line& t = find(table, starts, tensors, &first);
  uint64_t end = first + CHUNK < t.n ? first + CHUNK : t.n;
  float sum = 0;
  for (uint64_t i = first + threadIdx.x; i < end; i += blockDim.x) sum += t.grad[i] * t.grad[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
// out = (what gradients are multiplied by so that their norm is at most `most`, 1 where they and the loss, if it is there, are finite, the norm).
// One block of 1,024 threads.
extern "C" __global__ void clip_factor(const float* partial, int parts, float most, const float* loss, float* out) {
  float sum = 0;
  for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x) return;
  float norm = sqrtf(sum), by = most / (norm + 1e-6f);
  out[0] = most > 0 && by < 1.f ? by : 1.f;
  out[1] = isfinite(norm) && (!loss || isfinite(loss[0])) ? 1.f : 0.f;
  out[2] = norm;
}
