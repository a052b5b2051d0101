// Attention on packed projections, in bf16 with sums in f32, without a matrix of tokens by tokens in memory (T. Dao, arXiv 2307.08691).
// qkv (B, N, 3, H, D) -> (B, N, H, D). A warp works on S stripes of 16 rows: queries forward; backward, queries or keys. The tokens that they
// meet pass through shared memory in chunks, which all warps of a block share; few tokens are one chunk. Tokens past the last are zeros.
#include "mma.cuh"

constexpr float LOG2E = 1.4426950408889634f;

// Rows in shared memory are 16 bytes longer than their values, so that the rows of a matrix lie in different banks.
template <int D>
constexpr int ROW = D + 8;

// Two chunks of two tensors, and numbers of all queries.
extern __shared__ uint4 shared_tiles[];

struct Sizes {
  int tokens, heads;
  float scale;
  // Tokens of a chunk, a multiple of 16.
  int chunk;
};

// Two tensors' chunks in shared memory, the next of which is copied while the warps work on one.
template <int D>
struct Chunks {
  const bf16 *from, *from2;
  size_t stride, stride2;
  Sizes s;

  __device__ bf16* tile(int chunk, int tensor) const { return (bf16*)shared_tiles + ((chunk & 1) * 2 + tensor) * s.chunk * ROW<D>; }
  // What lies behind the tiles.
  __device__ float* behind() const { return (float*)((bf16*)shared_tiles + 4 * s.chunk * ROW<D>); }
  __device__ int there(int chunk) const { return min(s.chunk, s.tokens - chunk * s.chunk); }
  __device__ void fetch(int chunk) const {
    if (chunk * s.chunk < s.tokens) {
      copy(tile(chunk, 0), from, stride, chunk), copy(tile(chunk, 1), from2, stride2, chunk);
    }
    end_copies();
  }
  // Begins to copy the next chunk and waits for this one.
  __device__ void next(int chunk) const {
    fetch(chunk + 1);
    wait_copies<1>();
    __syncthreads();
  }

 private:
  __device__ void copy(bf16* to, const bf16* from, size_t stride, int chunk) const {
    constexpr int PACKS = D / 8;
    int here = there(chunk), rows = (here + 15) / 16 * 16;
    from += chunk * s.chunk * stride;
    for (int i = threadIdx.x; i < rows * PACKS; i += blockDim.x) {
      int row = i / PACKS, c = i % PACKS * 8;
      copy_async(to + row * ROW<D> + c, from + (row < here ? row * stride : 0) + c, row < here);
    }
  }
};

// The place of a thread: its lane's row (and the one eight below) and columns 2t, 2t + 1 of a result of 16 rows by 8 columns.
struct Place {
  int warp, warps, lane, g, t;
  __device__ Place() : warp(threadIdx.x >> 5), warps(blockDim.x >> 5), lane(threadIdx.x & 31), g(lane >> 2), t(lane & 3) {}
};

// The left operand of a product: 16 rows of memory, of which `there` are there.
template <int D>
__device__ void left(uint32_t a[D / 16][4], const bf16* from, size_t stride, int there) {
  Place at;
#pragma unroll
  for (int d = 0; d < D / 16; d++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int row = at.g + (e & 1) * 8;
      a[d][e] = row < there ? *(const uint32_t*)(from + row * stride + d * 16 + (e >> 1) * 8 + 2 * at.t) : 0;
    }
}
// The right operand of a product with the transpose of 16 rows of a tile: b[0], b[1] for the first eight rows, b[2], b[3] for the others.
template <int D>
__device__ void right_rows(uint32_t b[4], const bf16* tile, int row, int c) {
  int lane = threadIdx.x & 31;
  load_matrices(b, tile + (row + (lane & 7) + (lane >> 4) * 8) * ROW<D> + c + ((lane >> 3) & 1) * 8);
}
// The right operand of a product with 16 rows of a tile: b[0], b[1] for columns `c` to `c + 7`, b[2], b[3] for the eight behind them.
template <int D>
__device__ void right(uint32_t b[4], const bf16* tile, int row, int c) {
  int lane = threadIdx.x & 31;
  load_transposed(b, tile + (row + (lane & 15)) * ROW<D> + c + (lane >> 4) * 8);
}
// Two results of 16 rows by 8 columns, side by side, as the left operand of the next product.
__device__ inline void as_left(uint32_t a[4], const float p[2][4]) {
  a[0] = pair(p[0][0], p[0][1]), a[1] = pair(p[0][2], p[0][3]), a[2] = pair(p[1][0], p[1][1]), a[3] = pair(p[1][2], p[1][3]);
}
// One row of this lane's in a result of 16 rows by D columns, into memory.
template <int D>
__device__ void put_row(bf16* to, const float x[D / 8][4], int row, float factor) {
#pragma unroll
  for (int d = 0; d < D / 8; d++) *(uint32_t*)(to + d * 8) = pair(x[d][2 * row] * factor, x[d][2 * row + 1] * factor);
}

// Sums within the four lanes that share a row of a result.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// Forward, with the scores of C keys in registers.
template <int D, int S, int C>
__device__ void forward(const bf16* qkv, bf16* out, float* lse, Sizes s) {
  Place at;
  int head = blockIdx.y, sample = blockIdx.z, n = s.tokens, first = (blockIdx.x * at.warps + at.warp) * 16 * S;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  Chunks<D> chunks{base + width, base + 2 * width, stride, stride, s};
  chunks.fetch(0);
  float c = s.scale * LOG2E;
  uint32_t q[S][D / 16][4];
  float o[S][D / 8][4] = {}, most[S][2], sum[S][2] = {};
#pragma unroll
  for (int i = 0; i < S; i++) {
    most[i][0] = most[i][1] = -INFINITY;
    left<D>(q[i], base + (first + 16 * i) * stride, stride, n - first - 16 * i);
  }
  for (int chunk = 0; chunk * s.chunk < n; chunk++) {
    chunks.next(chunk);
    int here = first < n ? chunks.there(chunk) : 0;
    const bf16 *k = chunks.tile(chunk, 0), *v = chunks.tile(chunk, 1);
    for (int j0 = 0; j0 < here; j0 += C) {
      float p[S][C / 8][4];
#pragma unroll
      for (int j = 0; j < C / 16; j++) {
        if (j0 + j * 16 >= here) break;
#pragma unroll
        for (int i = 0; i < S; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) p[i][2 * j][e] = p[i][2 * j + 1][e] = 0;
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          uint32_t b[4];
          right_rows<D>(b, k, j0 + j * 16, d * 16);
#pragma unroll
          for (int i = 0; i < S; i++) mma(p[i][2 * j], q[i][d], b[0], b[1]), mma(p[i][2 * j + 1], q[i][d], b[2], b[3]);
        }
        if (j0 + j * 16 + 16 > here) {
#pragma unroll
          for (int i = 0; i < S; i++)
#pragma unroll
            for (int e = 0; e < 8; e++)
              if (j0 + j * 16 + (e >> 2) * 8 + 2 * at.t + (e & 1) >= here) p[i][2 * j + (e >> 2)][e & 3] = -INFINITY;
        }
      }
      float now[S][2];
#pragma unroll
      for (int i = 0; i < S; i++) {
        now[i][0] = most[i][0], now[i][1] = most[i][1];
#pragma unroll
        for (int j = 0; j < C / 16; j++) {
          if (j0 + j * 16 >= here) break;
#pragma unroll
          for (int e = 0; e < 4; e++) now[i][e >> 1] = fmaxf(now[i][e >> 1], fmaxf(p[i][2 * j][e], p[i][2 * j + 1][e]));
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
          now[i][r] = row_max(now[i][r]);
          float shrink = power_of_two((most[i][r] - now[i][r]) * c);
          most[i][r] = now[i][r], sum[i][r] *= shrink, now[i][r] *= c;
#pragma unroll
          for (int d = 0; d < D / 8; d++) o[i][d][2 * r] *= shrink, o[i][d][2 * r + 1] *= shrink;
        }
      }
#pragma unroll
      for (int j = 0; j < C / 16; j++) {
        if (j0 + j * 16 >= here) break;
        uint32_t a[S][4];
#pragma unroll
        for (int i = 0; i < S; i++) {
#pragma unroll
          for (int e = 0; e < 8; e++) {
            float w = power_of_two(fmaf(p[i][2 * j + (e >> 2)][e & 3], c, -now[i][(e >> 1) & 1]));
            p[i][2 * j + (e >> 2)][e & 3] = w, sum[i][(e >> 1) & 1] += w;
          }
          as_left(a[i], &p[i][2 * j]);
        }
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          uint32_t b[4];
          right<D>(b, v, j0 + j * 16, d * 16);
#pragma unroll
          for (int i = 0; i < S; i++) mma(o[i][2 * d], a[i], b[0], b[1]), mma(o[i][2 * d + 1], a[i], b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < S; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float total = row_sum(sum[i][r]);
      int token = first + 16 * i + at.g + 8 * r;
      if (token >= n) continue;
      put_row<D>(out + (size_t(sample) * n + token) * width + head * D + 2 * at.t, o[i], r, 1.f / total);
      if (at.t == 0) lse[(size_t(sample) * s.heads + head) * n + token] = most[i][r] * s.scale + logf(total);
    }
}

// For all queries: the sums over D of dout times out, and the logarithms of the softmax's sums in powers of two. Two threads per row.
template <int D>
__device__ void row_numbers(float* delta, float* lse2, const bf16* dout, const bf16* out, const float* lse, size_t width, int n) {
  for (int i = threadIdx.x; i < (n + 15) / 16 * 32; i += blockDim.x) {
    int row = i >> 1, half = i & 1;
    float sum = 0;
    if (row < n)
#pragma unroll
      for (int c = 0; c < D / 2; c += 8) {
        Pack<bf16> a = load(dout + row * width + half * (D / 2) + c), b = load(out + row * width + half * (D / 2) + c);
#pragma unroll
        for (int k = 0; k < 8; k++) sum += f32(a.v[k]) * f32(b.v[k]);
      }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (half == 0) {
      delta[row] = sum;
      // Queries that are not there get no weight.
      lse2[row] = row < n ? lse[row] * LOG2E : INFINITY;
    }
  }
}

// The sum over D of dout times out for a row of each lane's, from the left operands.
template <int D>
__device__ float own_delta(const uint32_t (*a)[4], const uint32_t (*b)[4], int r) {
  union Two {
    uint32_t u;
    bf16 v[2];
  };
  float sum = 0;
#pragma unroll
  for (int d = 0; d < D / 16; d++)
#pragma unroll
    for (int e = r; e < 4; e += 2) {
      Two x, y;
      x.u = a[d][e], y.u = b[d][e];
      sum += f32(x.v[0]) * f32(y.v[0]) + f32(x.v[1]) * f32(y.v[1]);
    }
  return row_sum(sum);
}

// Backward: the gradients of this warp's keys and values, or of its queries. Nothing is added up across warps, so that sums have one order.
template <int D, int S, bool KEYS>
__device__ void backward(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, Sizes s) {
  Place at;
  int head = blockIdx.y, sample = blockIdx.z, n = s.tokens, first = ((blockIdx.x >> 1) * at.warps + at.warp) * 16 * S;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  const bf16 *outs = out + size_t(sample) * n * width + head * D, *douts = dout + size_t(sample) * n * width + head * D;
  const float* lses = lse + (size_t(sample) * s.heads + head) * n;
  // Queries meet keys and values; keys and values meet queries and their gradients, each with two numbers.
  Chunks<D> chunks{KEYS ? base : base + width, KEYS ? douts : base + 2 * width, stride, KEYS ? width : stride, s};
  chunks.fetch(0);
  float *delta = chunks.behind(), *lse2 = delta + (n + 15) / 16 * 16;
  if (KEYS) row_numbers<D>(delta, lse2, douts, outs, lses, width, n);
  float c = s.scale * LOG2E, x[S][D / 8][4] = {}, y[KEYS ? S : 1][D / 8][4] = {}, mine[S][2], mine2[S][2];
  uint32_t a[S][D / 16][4], a2[S][D / 16][4];
#pragma unroll
  for (int i = 0; i < S; i++) {
    int row = first + 16 * i, there = n - row;
    if (KEYS) {
      left<D>(a[i], base + width + row * stride, stride, there), left<D>(a2[i], base + 2 * width + row * stride, stride, there);
    } else {
      // The first operand's place is free until the sums are there.
      left<D>(a[i], outs + row * width, width, there), left<D>(a2[i], douts + row * width, width, there);
#pragma unroll
      for (int r = 0; r < 2; r++) {
        mine[i][r] = own_delta<D>(a[i], a2[i], r);
        mine2[i][r] = at.g + 8 * r < there ? lses[row + at.g + 8 * r] * LOG2E : INFINITY;
      }
      left<D>(a[i], base + row * stride, stride, there);
    }
  }
  for (int chunk = 0; chunk * s.chunk < n; chunk++, delta += s.chunk, lse2 += s.chunk) {
    chunks.next(chunk);
    int here = first < n ? chunks.there(chunk) : 0;
    const bf16 *one = chunks.tile(chunk, 0), *two = chunks.tile(chunk, 1);
    for (int j = 0; j < here; j += 16) {
      float p[S][2][4] = {}, dp[S][2][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        right_rows<D>(b, one, j, d * 16);
#pragma unroll
        for (int i = 0; i < S; i++) mma(p[i][0], a[i][d], b[0], b[1]), mma(p[i][1], a[i][d], b[2], b[3]);
        right_rows<D>(b, two, j, d * 16);
#pragma unroll
        for (int i = 0; i < S; i++) mma(dp[i][0], a2[i][d], b[0], b[1]), mma(dp[i][1], a2[i][d], b[2], b[3]);
      }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        // A query's numbers belong to a column where the rows are keys.
        float2 column_lse, column_delta;
        if (KEYS) {
          column_lse = *(const float2*)(lse2 + j + h * 8 + 2 * at.t), column_delta = *(const float2*)(delta + j + h * 8 + 2 * at.t);
        }
#pragma unroll
        for (int i = 0; i < S; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            float l = KEYS ? (e & 1 ? column_lse.y : column_lse.x) : mine2[i][e >> 1];
            float dl = KEYS ? (e & 1 ? column_delta.y : column_delta.x) : mine[i][e >> 1];
            p[i][h][e] = power_of_two(fmaf(p[i][h][e], c, -l));
            // Keys that are not there: however unlikely a query finds all others.
            if (!KEYS && j + 16 > here && j + h * 8 + 2 * at.t + (e & 1) >= here) p[i][h][e] = 0;
            dp[i][h][e] = p[i][h][e] * (dp[i][h][e] - dl);
          }
      }
      uint32_t w[S][4], ds[S][4];
#pragma unroll
      for (int i = 0; i < S; i++) {
        as_left(ds[i], dp[i]);
        if (KEYS) as_left(w[i], p[i]);
      }
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        right<D>(b, one, j, d * 16);
#pragma unroll
        for (int i = 0; i < S; i++) mma(x[i][2 * d], ds[i], b[0], b[1]), mma(x[i][2 * d + 1], ds[i], b[2], b[3]);
        if (!KEYS) continue;
        right<D>(b, two, j, d * 16);
#pragma unroll
        for (int i = 0; i < S; i++) mma(y[KEYS ? i : 0][2 * d], w[i], b[0], b[1]), mma(y[KEYS ? i : 0][2 * d + 1], w[i], b[2], b[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < S; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int token = first + 16 * i + at.g + 8 * r;
      if (token >= n) continue;
      bf16* row = dqkv + (size_t(sample) * n + token) * stride + head * D + (KEYS ? width : 0) + 2 * at.t;
      put_row<D>(row, x[i], r, s.scale);
      if (KEYS) put_row<D>(row + width, y[KEYS ? i : 0], r, 1.f);
    }
}

// Measured on an H200 with 50, 197 and 1,024 tokens: stripes of a warp, keys whose scores it holds, and the warps of a block. The launcher knows
// the first and the last (`attention.rs`).
template <int D>
constexpr int FORWARD = D > 32 && D <= 64 ? 2 : 1;
template <int D>
constexpr int FORWARD_WARPS = D <= 32 ? 7 : 4;
template <int D>
constexpr int BACKWARD = D <= 64 ? 2 : 1;
constexpr int BACKWARD_WARPS = 4;

#define KERNELS(D)                                                                                                                             \
  extern "C" __global__ void __launch_bounds__(FORWARD_WARPS<D> * 32, 3) attention_forward_##D(const bf16* qkv, bf16* out, float* lse,         \
                                                                                               int tokens, int heads, float scale,             \
                                                                                               int chunk) {                                    \
    forward<D, FORWARD<D>, 32>(qkv, out, lse, Sizes{tokens, heads, scale, chunk});                                                             \
  }                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(BACKWARD_WARPS * 32, D <= 32 ? 3 : 2) attention_backward_##D(                                   \
      const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens, int heads, float scale, int chunk) {       \
    if (blockIdx.x & 1) {                                                                                                                      \
      backward<D, BACKWARD<D>, false>(qkv, out, lse, dout, dqkv, Sizes{tokens, heads, scale, chunk});                                          \
    } else {                                                                                                                                   \
      backward<D, BACKWARD<D>, true>(qkv, out, lse, dout, dqkv, Sizes{tokens, heads, scale, chunk});                                           \
    }                                                                                                                                          \
  }
KERNELS(16)
KERNELS(32)
KERNELS(48)
KERNELS(64)
KERNELS(80)
KERNELS(96)
KERNELS(128)
