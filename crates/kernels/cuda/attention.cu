// Attention on packed projections, in bf16 with sums in f32, without a matrix of tokens by tokens in memory (T. Dao, arXiv 2307.08691).
// qkv (B, N, 3, H, D) -> (B, N, H, D). Where all tokens of a head fit into shared memory, a block works on one head, and its warps on 16 tokens
// each. Longer sequences are streamed: blocks of four warps work on tiles of 64 tokens. Tokens past the last are zeros.
#include "mma.cuh"

constexpr int TILE = 64;
constexpr float LOG2E = 1.4426950408889634f;

// Rows of a tile in shared memory are 16 bytes longer than their values, so that the rows of a matrix lie in different banks.
template <int D>
constexpr int ROW = D + 8;

extern __shared__ uint4 shared_tiles[];

// Copies TILE rows of D values, of which `rows` are there, from memory with `stride` values between rows.
template <int D>
__device__ void load_tile(bf16* tile, const bf16* from, size_t stride, int rows) {
  constexpr int PACKS = D / 8;
  for (int i = threadIdx.x; i < TILE * PACKS; i += 128) {
    int row = i / PACKS, c = i % PACKS * 8;
    Pack<bf16> p;
    if (row < rows) {
      p = load(from + row * stride + c);
    } else {
#pragma unroll
      for (int k = 0; k < 8; k++) p.v[k] = real<bf16>(0.f);
    }
    store(tile + row * ROW<D> + c, p);
  }
}

// Fragments of a product's left operand: rows `row` to `row + 15`, columns `c` to `c + 15` of a tile.
template <int D>
__device__ void left(uint32_t a[4], const bf16* tile, int row, int c) {
  int lane = threadIdx.x & 31;
  load_matrices(a, tile + (row + (lane & 15)) * ROW<D> + c + (lane >> 4) * 8);
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

// Sums within the four lanes that share a row of a result.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

struct Sizes {
  int tokens, heads;
  float scale;
};

template <int D>
__device__ void forward_long(const bf16* qkv, bf16* out, float* lse, Sizes s) {
  bf16 *q = (bf16*)shared_tiles, *k = q + TILE * ROW<D>, *v = k + TILE * ROW<D>;
  int head = blockIdx.y, sample = blockIdx.z, first = blockIdx.x * TILE, n = s.tokens;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  load_tile<D>(q, base + first * stride, stride, n - first);
  float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  float c = s.scale * LOG2E;
  for (int key0 = 0; key0 < n; key0 += TILE) {
    __syncthreads();
    load_tile<D>(k, base + width + key0 * stride, stride, n - key0);
    load_tile<D>(v, base + 2 * width + key0 * stride, stride, n - key0);
    __syncthreads();
    int left_over = n - key0;
    float p[TILE / 8][4];
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) p[j][0] = p[j][1] = p[j][2] = p[j][3] = 0;
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t a[4];
      left<D>(a, q, warp * 16, d);
#pragma unroll
      for (int j = 0; j < TILE / 16; j++) {
        if (j * 16 >= left_over) break;
        uint32_t b[4];
        right_rows<D>(b, k, j * 16, d);
        mma(p[2 * j], a, b[0], b[1]);
        mma(p[2 * j + 1], a, b[2], b[3]);
      }
    }
    float now[2] = {most[0], most[1]};
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        if (j * 8 + 2 * t + (e & 1) >= left_over) p[j][e] = -INFINITY;
        now[e >> 1] = fmaxf(now[e >> 1], p[j][e]);
      }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      now[r] = row_max(now[r]);
      float shrink = power_of_two((most[r] - now[r]) * c);
      most[r] = now[r], sum[r] *= shrink;
#pragma unroll
      for (int d = 0; d < D / 8; d++) o[d][2 * r] *= shrink, o[d][2 * r + 1] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        p[j][e] = power_of_two((p[j][e] - most[e >> 1]) * c);
        sum[e >> 1] += p[j][e];
      }
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      if (j * 16 >= left_over) break;
      uint32_t a[4] = {pair(p[2 * j][0], p[2 * j][1]), pair(p[2 * j][2], p[2 * j][3]), pair(p[2 * j + 1][0], p[2 * j + 1][1]),
                       pair(p[2 * j + 1][2], p[2 * j + 1][3])};
#pragma unroll
      for (int d = 0; d < D; d += 16) {
        uint32_t b[4];
        right<D>(b, v, j * 16, d);
        mma(o[d / 8], a, b[0], b[1]);
        mma(o[d / 8 + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float all = row_sum(sum[r]), inverse = 1.f / all;
    int token = first + warp * 16 + g + 8 * r;
    if (token >= n) continue;
    bf16* to = out + (size_t(sample) * n + token) * width + head * D + 2 * t;
#pragma unroll
    for (int d = 0; d < D / 8; d++) *(uint32_t*)(to + d * 8) = pair(o[d][2 * r] * inverse, o[d][2 * r + 1] * inverse);
    if (t == 0) lse[(size_t(sample) * s.heads + head) * n + token] = most[r] * s.scale + logf(all);
  }
}

// For a tile of queries: the sums over D of dout times out, and the logarithms of the softmax's sums in powers of two.
template <int D>
__device__ void load_rows(float* delta, float* lse2, const bf16* dout, const bf16* out, const float* lse, size_t width, int rows) {
  int row = threadIdx.x >> 1, half = threadIdx.x & 1;
  float sum = 0;
  if (row < rows)
    for (int c = half * (D / 2); c < (half + 1) * (D / 2); c += 8) {
      Pack<bf16> a = load(dout + row * width + c), b = load(out + row * width + c);
#pragma unroll
      for (int k = 0; k < 8; k++) sum += f32(a.v[k]) * f32(b.v[k]);
    }
  sum += __shfl_xor_sync(~0u, sum, 1);
  if (half == 0) {
    delta[row] = sum;
    // Queries that are not there get no weight.
    lse2[row] = row < rows ? lse[row] * LOG2E : INFINITY;
  }
}

// The gradients of 64 keys and values (blocks 0, 2, ...) or of 64 queries (blocks 1, 3, ...): nothing is added up across blocks.
template <int D>
__device__ void backward_long(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, Sizes s) {
  bf16 *q = (bf16*)shared_tiles, *k = q + TILE * ROW<D>, *v = k + TILE * ROW<D>, *d_out = v + TILE * ROW<D>;
  float *delta = (float*)(d_out + TILE * ROW<D>), *lse2 = delta + TILE;
  int head = blockIdx.y, sample = blockIdx.z, n = s.tokens, first = (blockIdx.x >> 1) * TILE;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  const bf16 *outs = out + size_t(sample) * n * width + head * D, *douts = dout + size_t(sample) * n * width + head * D;
  const float* lses = lse + (size_t(sample) * s.heads + head) * n;
  bf16* to = dqkv + size_t(sample) * n * stride + head * D;
  float c = s.scale * LOG2E;
  float x[D / 8][4] = {};
  if (blockIdx.x & 1) {
    load_tile<D>(q, base + first * stride, stride, n - first);
    load_tile<D>(d_out, douts + first * width, width, n - first);
    load_rows<D>(delta, lse2, douts + first * width, outs + first * width, lses + first, width, n - first);
    __syncthreads();
    float mine[2], mine2[2];
#pragma unroll
    for (int r = 0; r < 2; r++) mine[r] = delta[warp * 16 + g + 8 * r], mine2[r] = lse2[warp * 16 + g + 8 * r];
    for (int key0 = 0; key0 < n; key0 += TILE) {
      __syncthreads();
      load_tile<D>(k, base + width + key0 * stride, stride, n - key0);
      load_tile<D>(v, base + 2 * width + key0 * stride, stride, n - key0);
      __syncthreads();
      for (int j = 0; j < TILE && key0 + j < n; j += 16) {
        float p[2][4] = {}, dp[2][4] = {};
#pragma unroll
        for (int d = 0; d < D; d += 16) {
          uint32_t a[4], b[4];
          left<D>(a, q, warp * 16, d);
          right_rows<D>(b, k, j, d);
          mma(p[0], a, b[0], b[1]);
          mma(p[1], a, b[2], b[3]);
          left<D>(a, d_out, warp * 16, d);
          right_rows<D>(b, v, j, d);
          mma(dp[0], a, b[0], b[1]);
          mma(dp[1], a, b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            bool there = key0 + j + i * 8 + 2 * t + (e & 1) < n;
            p[i][e] = there ? power_of_two(p[i][e] * c - mine2[e >> 1]) * (dp[i][e] - mine[e >> 1]) * s.scale : 0.f;
          }
        uint32_t a[4] = {pair(p[0][0], p[0][1]), pair(p[0][2], p[0][3]), pair(p[1][0], p[1][1]), pair(p[1][2], p[1][3])};
#pragma unroll
        for (int d = 0; d < D; d += 16) {
          uint32_t b[4];
          right<D>(b, k, j, d);
          mma(x[d / 8], a, b[0], b[1]);
          mma(x[d / 8 + 1], a, b[2], b[3]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int token = first + warp * 16 + g + 8 * r;
      if (token >= n) continue;
#pragma unroll
      for (int d = 0; d < D / 8; d++) *(uint32_t*)(to + token * stride + d * 8 + 2 * t) = pair(x[d][2 * r], x[d][2 * r + 1]);
    }
    return;
  }
  float y[D / 8][4] = {};
  load_tile<D>(k, base + width + first * stride, stride, n - first);
  load_tile<D>(v, base + 2 * width + first * stride, stride, n - first);
  for (int query0 = 0; query0 < n; query0 += TILE) {
    __syncthreads();
    load_tile<D>(q, base + query0 * stride, stride, n - query0);
    load_tile<D>(d_out, douts + query0 * width, width, n - query0);
    load_rows<D>(delta, lse2, douts + query0 * width, outs + query0 * width, lses + query0, width, n - query0);
    __syncthreads();
    for (int j = 0; j < TILE && query0 + j < n; j += 16) {
      float p[2][4] = {}, dp[2][4] = {};
#pragma unroll
      for (int d = 0; d < D; d += 16) {
        uint32_t a[4], b[4];
        left<D>(a, k, warp * 16, d);
        right_rows<D>(b, q, j, d);
        mma(p[0], a, b[0], b[1]);
        mma(p[1], a, b[2], b[3]);
        left<D>(a, v, warp * 16, d);
        right_rows<D>(b, d_out, j, d);
        mma(dp[0], a, b[0], b[1]);
        mma(dp[1], a, b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int query = j + i * 8 + 2 * t + (e & 1);
          p[i][e] = power_of_two(p[i][e] * c - lse2[query]);
          dp[i][e] = p[i][e] * (dp[i][e] - delta[query]) * s.scale;
        }
      uint32_t a[4] = {pair(p[0][0], p[0][1]), pair(p[0][2], p[0][3]), pair(p[1][0], p[1][1]), pair(p[1][2], p[1][3])};
      uint32_t e[4] = {pair(dp[0][0], dp[0][1]), pair(dp[0][2], dp[0][3]), pair(dp[1][0], dp[1][1]), pair(dp[1][2], dp[1][3])};
#pragma unroll
      for (int d = 0; d < D; d += 16) {
        uint32_t b[4];
        right<D>(b, d_out, j, d);
        mma(y[d / 8], a, b[0], b[1]);
        mma(y[d / 8 + 1], a, b[2], b[3]);
        right<D>(b, q, j, d);
        mma(x[d / 8], e, b[0], b[1]);
        mma(x[d / 8 + 1], e, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    int token = first + warp * 16 + g + 8 * r;
    if (token >= n) continue;
    bf16* row = to + token * stride + width + 2 * t;
#pragma unroll
    for (int d = 0; d < D / 8; d++) {
      *(uint32_t*)(row + d * 8) = pair(x[d][2 * r], x[d][2 * r + 1]);
      *(uint32_t*)(row + width + d * 8) = pair(y[d][2 * r], y[d][2 * r + 1]);
    }
  }
}

// Copies `n` rows, and zeros for those up to a multiple of 16, with all threads of the block.
template <int D>
__device__ void load_rows_of(bf16* tile, const bf16* from, size_t stride, int n, int all) {
  constexpr int PACKS = D / 8;
  for (int i = threadIdx.x; i < all * PACKS; i += blockDim.x) {
    int row = i / PACKS, c = i % PACKS * 8;
    Pack<bf16> p;
    if (row < n) {
      p = load(from + row * stride + c);
    } else {
#pragma unroll
      for (int k = 0; k < 8; k++) p.v[k] = real<bf16>(0.f);
    }
    store(tile + row * ROW<D> + c, p);
  }
}

template <int D>
__device__ void forward(const bf16* qkv, bf16* out, float* lse, Sizes s) {
  int n = s.tokens, all = (n + 15) / 16 * 16, head = blockIdx.x, sample = blockIdx.y;
  bf16 *k = (bf16*)shared_tiles, *v = k + all * ROW<D>;
  int warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  load_rows_of<D>(k, base + width, stride, n, all);
  load_rows_of<D>(v, base + 2 * width, stride, n, all);
  __syncthreads();
  float c = s.scale * LOG2E;
  for (int first = warp * 16; first < n; first += warps * 16) {
    // The queries, as left operands.
    uint32_t q[D / 16][4];
#pragma unroll
    for (int d = 0; d < D / 16; d++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = first + g + (e & 1) * 8;
        q[d][e] = row < n ? *(const uint32_t*)(base + row * stride + d * 16 + (e >> 1) * 8 + 2 * t) : 0;
      }
    float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    for (int key0 = 0; key0 < n; key0 += TILE) {
      int here = n - key0;
      float p[TILE / 8][4];
#pragma unroll
      for (int j = 0; j < TILE / 16; j++) {
        if (j * 16 >= here) break;
#pragma unroll
        for (int e = 0; e < 4; e++) p[2 * j][e] = p[2 * j + 1][e] = 0;
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          uint32_t b[4];
          right_rows<D>(b, k, key0 + j * 16, d * 16);
          mma(p[2 * j], q[d], b[0], b[1]);
          mma(p[2 * j + 1], q[d], b[2], b[3]);
        }
        if (j * 16 + 16 > here) {
#pragma unroll
          for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
              if (j * 16 + i * 8 + 2 * t + (e & 1) >= here) p[2 * j + i][e] = -INFINITY;
        }
      }
      float now[2] = {most[0], most[1]};
#pragma unroll
      for (int j = 0; j < TILE / 16; j++) {
        if (j * 16 >= here) break;
#pragma unroll
        for (int e = 0; e < 4; e++) now[e >> 1] = fmaxf(now[e >> 1], fmaxf(p[2 * j][e], p[2 * j + 1][e]));
      }
#pragma unroll
      for (int r = 0; r < 2; r++) {
        now[r] = row_max(now[r]);
        float shrink = power_of_two((most[r] - now[r]) * c);
        most[r] = now[r], sum[r] *= shrink, now[r] *= c;
#pragma unroll
        for (int d = 0; d < D / 8; d++) o[d][2 * r] *= shrink, o[d][2 * r + 1] *= shrink;
      }
#pragma unroll
      for (int j = 0; j < TILE / 16; j++) {
        if (j * 16 >= here) break;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            float w = power_of_two(fmaf(p[2 * j + i][e], c, -now[e >> 1]));
            p[2 * j + i][e] = w, sum[e >> 1] += w;
          }
        uint32_t a[4] = {pair(p[2 * j][0], p[2 * j][1]), pair(p[2 * j][2], p[2 * j][3]), pair(p[2 * j + 1][0], p[2 * j + 1][1]),
                         pair(p[2 * j + 1][2], p[2 * j + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
          uint32_t b[4];
          right<D>(b, v, key0 + j * 16, d * 16);
          mma(o[2 * d], a, b[0], b[1]);
          mma(o[2 * d + 1], a, b[2], b[3]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float total = row_sum(sum[r]), inverse = 1.f / total;
      int token = first + g + 8 * r;
      if (token >= n) continue;
      bf16* to = out + (size_t(sample) * n + token) * width + head * D + 2 * t;
#pragma unroll
      for (int d = 0; d < D / 8; d++) *(uint32_t*)(to + d * 8) = pair(o[d][2 * r] * inverse, o[d][2 * r + 1] * inverse);
      if (t == 0) lse[(size_t(sample) * s.heads + head) * n + token] = most[r] * s.scale + logf(total);
    }
  }
}

// Sixteen keys and values of a head, or sixteen queries, at a time: warps take turns at both.
template <int D>
__device__ void backward(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, Sizes s) {
  // Few registers hold a narrow head's left operands, which are loaded once.
  constexpr bool KEPT = D <= 32;
  int n = s.tokens, all = (n + 15) / 16 * 16, head = blockIdx.x, sample = blockIdx.y;
  bf16 *q = (bf16*)shared_tiles, *k = q + all * ROW<D>, *v = k + all * ROW<D>, *d_out = v + all * ROW<D>;
  float *delta = (float*)(d_out + all * ROW<D>), *lse2 = delta + all;
  int warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  size_t stride = size_t(3) * s.heads * D, width = size_t(s.heads) * D;
  const bf16* base = qkv + size_t(sample) * n * stride + head * D;
  const bf16 *outs = out + size_t(sample) * n * width + head * D, *douts = dout + size_t(sample) * n * width + head * D;
  const float* lses = lse + (size_t(sample) * s.heads + head) * n;
  bf16* to = dqkv + size_t(sample) * n * stride + head * D;
  float c = s.scale * LOG2E;
  load_rows_of<D>(q, base, stride, n, all);
  load_rows_of<D>(k, base + width, stride, n, all);
  load_rows_of<D>(v, base + 2 * width, stride, n, all);
  load_rows_of<D>(d_out, douts, width, n, all);
  // Two threads per row; whole warps take part, for they exchange.
  for (int i = threadIdx.x; i < all * 2; i += blockDim.x) {
    int row = i >> 1, half = i & 1;
    float sum = 0;
    if (row < n)
      for (int x = half * (D / 2); x < (half + 1) * (D / 2); x += 8) {
        Pack<bf16> a = load(douts + row * width + x), b = load(outs + row * width + x);
#pragma unroll
        for (int e = 0; e < 8; e++) sum += f32(a.v[e]) * f32(b.v[e]);
      }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (half == 0) {
      delta[row] = sum;
      // Queries that are not there get no weight.
      lse2[row] = row < n ? lses[row] * LOG2E : INFINITY;
    }
  }
  __syncthreads();
  int stripes = all / 16;
  for (int item = warp; item < 2 * stripes; item += warps) {
    bool keys = item < stripes;
    int first = (keys ? item : item - stripes) * 16;
    // What this warp's rows are multiplied with: queries and their gradients, or keys and values.
    const bf16 *mine = keys ? k : q, *mine2 = keys ? v : d_out, *other = keys ? q : k, *other2 = keys ? d_out : v;
    uint32_t a[KEPT ? D / 16 : 1][4], a2[KEPT ? D / 16 : 1][4];
    if (KEPT) {
#pragma unroll
      for (int d = 0; d < D / 16; d++) left<D>(a[KEPT ? d : 0], mine, first, d * 16), left<D>(a2[KEPT ? d : 0], mine2, first, d * 16);
    }
    float x[D / 8][4] = {}, y[D / 8][4] = {};
    float row_delta[2] = {delta[first + g], delta[first + g + 8]}, row_lse[2] = {lse2[first + g], lse2[first + g + 8]};
    for (int j = 0; j < n; j += 16) {
      float p[2][4] = {}, dp[2][4] = {};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4], *l = a[KEPT ? d : 0], *l2 = a2[KEPT ? d : 0];
        if (!KEPT) left<D>(l, mine, first, d * 16);
        right_rows<D>(b, other, j, d * 16);
        mma(p[0], l, b[0], b[1]);
        mma(p[1], l, b[2], b[3]);
        if (!KEPT) left<D>(l2, mine2, first, d * 16);
        right_rows<D>(b, other2, j, d * 16);
        mma(dp[0], l2, b[0], b[1]);
        mma(dp[1], l2, b[2], b[3]);
      }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        // A query's numbers belong to a column where the rows are keys.
        float2 column_lse, column_delta;
        if (keys) {
          column_lse = *(const float2*)(lse2 + j + i * 8 + 2 * t), column_delta = *(const float2*)(delta + j + i * 8 + 2 * t);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
          float l = keys ? (e & 1 ? column_lse.y : column_lse.x) : row_lse[e >> 1];
          float dl = keys ? (e & 1 ? column_delta.y : column_delta.x) : row_delta[e >> 1];
          p[i][e] = power_of_two(fmaf(p[i][e], c, -l));
          // Keys that are not there: however unlikely a query finds all others.
          if (!keys && j + 16 > n && j + i * 8 + 2 * t + (e & 1) >= n) p[i][e] = 0;
          dp[i][e] = p[i][e] * (dp[i][e] - dl);
        }
      }
      uint32_t ds[4] = {pair(dp[0][0], dp[0][1]), pair(dp[0][2], dp[0][3]), pair(dp[1][0], dp[1][1]), pair(dp[1][2], dp[1][3])};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        right<D>(b, other, j, d * 16);
        mma(x[2 * d], ds, b[0], b[1]);
        mma(x[2 * d + 1], ds, b[2], b[3]);
      }
      if (!keys) continue;
      uint32_t w[4] = {pair(p[0][0], p[0][1]), pair(p[0][2], p[0][3]), pair(p[1][0], p[1][1]), pair(p[1][2], p[1][3])};
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        uint32_t b[4];
        right<D>(b, d_out, j, d * 16);
        mma(y[2 * d], w, b[0], b[1]);
        mma(y[2 * d + 1], w, b[2], b[3]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
      int token = first + g + 8 * r;
      if (token >= n) continue;
      bf16* row = to + token * stride + (keys ? width : 0) + 2 * t;
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        *(uint32_t*)(row + d * 8) = pair(x[d][2 * r] * s.scale, x[d][2 * r + 1] * s.scale);
        if (keys) *(uint32_t*)(row + width + d * 8) = pair(y[d][2 * r], y[d][2 * r + 1]);
      }
    }
  }
}

// Warps of a block at most, for which the registers of a multiprocessor last.
template <int D>
constexpr int WARPS = D <= 32 ? 8 : D <= 64 ? 14 : 8;

#define KERNELS(D)                                                                                                                             \
  extern "C" __global__ void __launch_bounds__(256) attention_forward_##D(const bf16* qkv, bf16* out, float* lse, int tokens, int heads,       \
                                                                          float scale) {                                                       \
    forward<D>(qkv, out, lse, Sizes{tokens, heads, scale});                                                                                    \
  }                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(WARPS<D> * 32) attention_backward_##D(                                                          \
      const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens, int heads, float scale) {                  \
    backward<D>(qkv, out, lse, dout, dqkv, Sizes{tokens, heads, scale});                                                                       \
  }                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(128) attention_forward_long_##D(const bf16* qkv, bf16* out, float* lse, int tokens, int heads,  \
                                                                               float scale) {                                                  \
    forward_long<D>(qkv, out, lse, Sizes{tokens, heads, scale});                                                                               \
  }                                                                                                                                            \
  extern "C" __global__ void __launch_bounds__(128) attention_backward_long_##D(                                                               \
      const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv, int tokens, int heads, float scale) {                  \
    backward_long<D>(qkv, out, lse, dout, dqkv, Sizes{tokens, heads, scale});                                                                  \
  }
KERNELS(16)
KERNELS(32)
KERNELS(48)
KERNELS(64)
KERNELS(80)
KERNELS(96)
KERNELS(128)
