// Sequences of tokens: rows of `width` values.
#include "real.cuh"

// A warp per row, or one per block in y, 16 bytes per lane, or value by value where rows are no packs.
template <class T, class F>
__device__ void each(int width, F f) {
  constexpr int N = Pack<T>::N;
  int first = blockIdx.y * 32 + threadIdx.x, step = gridDim.y * 32;
  if (width % N == 0) {
    for (int c = first * N; c < width; c += step * N) f(c, true);
  } else {
    for (int c = first; c < width; c += step) f(c, false);
  }
}
template <class T>
__device__ void copy(T* to, const T* from, int width) {
  each<T>(width, [&](int c, bool pack) {
    if (pack) {
      store(to + c, load(from + c));
    } else {
      to[c] = from[c];
    }
  });
}
template <class T>
__device__ void fill(T* to, int width, float v) {
  each<T>(width, [&](int c, bool pack) {
    if (!pack) {
      to[c] = real<T>(v);
      return;
    }
    Pack<T> p;
#pragma unroll
    for (int k = 0; k < Pack<T>::N; k++) p.v[k] = real<T>(v);
    store(to + c, p);
  });
}
// N values of bf16 or f32 as floats, from an address that is a multiple of 16 bytes.
template <int N>
__device__ inline void load_values(float to[N], const float* from) { load_floats<N>(to, from); }
template <int N>
__device__ inline void load_values(float to[N], const bf16* from) {
#pragma unroll
  for (int k = 0; k < N; k += 8) {
    Pack<bf16> p = load(from + k);
#pragma unroll
    for (int j = 0; j < 8; j++) to[k + j] = f32(p.v[j]);
  }
}
// to = from + table, where `from` is in T or in f32.
template <class T, class S>
__device__ void sum(T* to, const S* from, const float* table, int width) {
  bool whole = ((size_t(from) | size_t(table)) & 15) == 0;
  each<T>(width, [&](int c, bool pack) {
    if (pack && whole) {
      float a[Pack<T>::N], b[Pack<T>::N];
      load_values<Pack<T>::N>(a, from + c), load_values<Pack<T>::N>(b, table + c);
      Pack<T> p;
#pragma unroll
      for (int k = 0; k < Pack<T>::N; k++) p.v[k] = real<T>(a[k] + b[k]);
      store(to + c, p);
      return;
    }
    if (!pack) {
      to[c] = real<T>(f32(from[c]) + table[c]);
      return;
    }
    Pack<T> p;
#pragma unroll
    for (int k = 0; k < Pack<T>::N; k++) p.v[k] = real<T>(f32(from[c + k]) + table[c + k]);
    store(to + c, p);
  });
}
__device__ inline size_t this_row() { return size_t(blockIdx.x) * blockDim.y + threadIdx.y; }

// y (B, K) = rows `ids` (B, K) of x (B, N).
template <class T>
__device__ void gather(const T* x, const uint32_t* ids, T* y, int samples, int n, int k, int width) {
  size_t row = this_row();
  if (row >= size_t(samples) * k) return;
  copy(y + row * width, x + (row / k * n + ids[row]) * width, width);
}
// dx (B, N) from g (B, K): each token adds up the rows that were read from it, in their order.
template <class T>
__device__ void gather_backward(const T* g, const uint32_t* ids, T* dx, int samples, int n, int k, int width) {
  size_t row = this_row();
  if (row >= size_t(samples) * n) return;
  size_t first = row / n * k;
  uint32_t token = uint32_t(row % n);
  int found = 0, last = 0;
  for (int i = threadIdx.x; i < (k + 31) / 32 * 32; i += 32) {
    unsigned here = __ballot_sync(~0u, i < k && ids[first + i] == token);
    found += __popc(here);
    if (here) last = i - threadIdx.x + 31 - __clz(int(here));
  }
  if (found == 0) {
    fill(dx + row * width, width, 0.f);
  } else if (found == 1) {
    copy(dx + row * width, g + (first + last) * width, width);
  } else {
    for (int c = blockIdx.y * 32 + threadIdx.x; c < width; c += gridDim.y * 32) {
      float v = 0;
      for (int i = 0; i < k; i++)
        if (ids[first + i] == token) v += f32(g[(first + i) * width + c]);
      dx[row * width + c] = real<T>(v);
    }
  }
}

// y (B) = x (B) plus scale times the rows of z (K) at their places (B); a place of K or more has none.
template <class T>
__device__ void add_kept(const T* x, const T* z, const uint32_t* places, T* y, int samples, int k, int width, float scale) {
  size_t row = this_row();
  if (row >= size_t(samples)) return;
  const T* from = x + row * width;
  if (places[row] >= uint32_t(k)) {
    copy(y + row * width, from, width);
    return;
  }
  const T* more = z + size_t(places[row]) * width;
  each<T>(width, [&](int c, bool pack) {
    if (!pack) {
      y[row * width + c] = real<T>(f32(from[c]) + scale * f32(more[c]));
      return;
    }
    Pack<T> p = load(from + c), q = load(more + c);
#pragma unroll
    for (int i = 0; i < Pack<T>::N; i++) p.v[i] = real<T>(f32(p.v[i]) + scale * f32(q.v[i]));
    store(y + row * width + c, p);
  });
}

// y (B, 1 + N) = `token` before the tokens of x (B, N).
template <class T>
__device__ void prepend(const T* x, const float* token, T* y, int samples, int n, int width) {
  size_t row = this_row();
  if (row >= size_t(samples) * (n + 1)) return;
  size_t sample = row / (n + 1);
  int i = int(row % (n + 1));
  if (i) {
    copy(y + row * width, x + (sample * n + i - 1) * width, width);
  } else {
    each<T>(width, [&](int c, bool pack) {
      for (int k = 0; k < (pack ? Pack<T>::N : 1); k++) y[row * width + c + k] = real<T>(token[c + k]);
    });
  }
}

// y (B, N) = x (B, N) + table (N).
template <class T>
__device__ void add_table(const T* x, const float* table, T* y, int samples, int n, int width) {
  size_t row = this_row();
  if (row < size_t(samples) * n) sum(y + row * width, x + row * width, table + row % n * width, width);
}

// MAE's decoder input: y (B, 1 + L) from x (B, 1 + K), a mask token, positions (1 + L) and the tokens' places (B, L).
template <class T>
__device__ void unshuffle(const T* x, const float* mask, const uint32_t* restore, const float* pos, T* y, int samples, int l, int k1, int width) {
  size_t row = this_row();
  if (row >= size_t(samples) * (l + 1)) return;
  size_t sample = row / (l + 1);
  int i = int(row % (l + 1));
  uint32_t place = i ? restore[sample * l + i - 1] + 1 : 0;
  const float* table = pos + size_t(i) * width;
  if (place < uint32_t(k1)) {
    sum(y + row * width, x + (sample * k1 + place) * width, table, width);
  } else {
    sum(y + row * width, mask, table, width);
  }
}
// dx (B, 1 + K) of g (B, 1 + L).
template <class T>
__device__ void unshuffle_backward(const T* g, const uint32_t* restore, T* dx, int samples, int l, int k1, int width) {
  size_t row = this_row();
  if (row >= size_t(samples) * (l + 1)) return;
  size_t sample = row / (l + 1);
  int i = int(row % (l + 1));
  uint32_t place = i ? restore[sample * l + i - 1] + 1 : 0;
  if (place < uint32_t(k1)) copy(dx + (sample * k1 + place) * width, g + row * width, width);
}
// The gradient of the mask token over a share of the rows of g (B, 1 + L): partial (blocks in y, width). With `k1` = 0 that of the first
// tokens, for a class token. Blocks of 128 threads.
template <class T>
__device__ void token_backward(const T* g, const uint32_t* restore, float* partial, int samples, int l, int k1, int width) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= width) return;
  float v = 0;
  for (int sample = blockIdx.y; sample < samples; sample += gridDim.y) {
    const T* rows = g + size_t(sample) * (l + 1) * width + c;
    if (k1 == 0) {
      v += f32(rows[0]);
      continue;
    }
    for (int i = 0; i < l; i++)
      if (restore[size_t(sample) * l + i] + 1 >= uint32_t(k1)) v += f32(rows[size_t(i + 1) * width]);
  }
  partial[size_t(blockIdx.y) * width + c] = v;
}

// y (B) = the mean of x (B, N) over its tokens, and its gradient.
template <class T>
__device__ void mean(const T* x, T* y, int samples, int n, int width) {
  size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size_t(samples) * width) return;
  const T* from = x + i / width * n * width + i % width;
  float v = 0;
  for (int j = 0; j < n; j++) v += f32(from[size_t(j) * width]);
  y[i] = real<T>(v / n);
}
template <class T>
__device__ void mean_backward(const T* g, T* dx, int samples, int n, int width) {
  size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size_t(samples) * n * width) dx[i] = real<T>(f32(g[i / width / n * width + i % width]) / n);
}

#define KERNELS(NAME, T)                                                                                                                          \
  extern "C" __global__ void gather_##NAME(const T* x, const uint32_t* ids, T* y, int samples, int n, int k, int width) {                        \
    gather(x, ids, y, samples, n, k, width);                                                                                                      \
  }                                                                                                                                               \
  extern "C" __global__ void gather_backward_##NAME(const T* g, const uint32_t* ids, T* dx, int samples, int n, int k, int width) {              \
    gather_backward(g, ids, dx, samples, n, k, width);                                                                                            \
  }                                                                                                                                               \
  extern "C" __global__ void add_kept_##NAME(const T* x, const T* z, const uint32_t* places, T* y, int samples, int k, int width, float scale) { \
    add_kept(x, z, places, y, samples, k, width, scale);                                                                                          \
  }                                                                                                                                               \
  extern "C" __global__ void prepend_##NAME(const T* x, const float* token, T* y, int samples, int n, int width) {                               \
    prepend(x, token, y, samples, n, width);                                                                                                      \
  }                                                                                                                                               \
  extern "C" __global__ void add_table_##NAME(const T* x, const float* table, T* y, int samples, int n, int width) {                             \
    add_table(x, table, y, samples, n, width);                                                                                                    \
  }                                                                                                                                               \
  extern "C" __global__ void unshuffle_##NAME(const T* x, const float* mask, const uint32_t* restore, const float* pos, T* y, int samples, int l, \
                                              int k1, int width) {                                                                                \
    unshuffle(x, mask, restore, pos, y, samples, l, k1, width);                                                                                   \
  }                                                                                                                                               \
  extern "C" __global__ void unshuffle_backward_##NAME(const T* g, const uint32_t* restore, T* dx, int samples, int l, int k1, int width) {      \
    unshuffle_backward(g, restore, dx, samples, l, k1, width);                                                                                    \
  }                                                                                                                                               \
  extern "C" __global__ void token_backward_##NAME(const T* g, const uint32_t* restore, float* partial, int samples, int l, int k1, int width) { \
    token_backward(g, restore, partial, samples, l, k1, width);                                                                                   \
  }                                                                                                                                               \
  extern "C" __global__ void mean_##NAME(const T* x, T* y, int samples, int n, int width) { mean(x, y, samples, n, width); }                     \
  extern "C" __global__ void mean_backward_##NAME(const T* g, T* dx, int samples, int n, int width) { mean_backward(g, dx, samples, n, width); }
KERNELS(bf16, bf16)
KERNELS(f32, float)
