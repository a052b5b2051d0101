// Tensor cores: the twins of the instructions in `../mma.cuh`. What the lanes of a warp hold is exchanged word by word.
#pragma once

namespace cuda_host {
// Every lane of a whole warp gives a value and sees all of them until the warp's next exchange.
const uint64_t* share(uint64_t value);

inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  int g = lane() >> 2, t = lane() & 3;
  auto value = [](uint64_t word, int half) { return from_bf16(uint16_t(word >> 16 * half)); };
  // The two rows of the left operand and the two columns of the right one that this lane's results need.
  float rows[2][16], columns[2][16];
  // A word holds two registers of a lane: columns (or rows) 2t, 2t + 1 of one, and the same eight further, or eight rows below, of the other.
  const uint64_t* low = share(a[0] | uint64_t(a[1]) << 32);
  for (int s = 0; s < 4; s++)
    for (int half = 0; half < 2; half++)
      for (int r = 0; r < 2; r++) rows[r][2 * s + half] = value(low[4 * g + s], 2 * r + half);
  const uint64_t* high = share(a[2] | uint64_t(a[3]) << 32);
  for (int s = 0; s < 4; s++)
    for (int half = 0; half < 2; half++)
      for (int r = 0; r < 2; r++) rows[r][8 + 2 * s + half] = value(high[4 * g + s], 2 * r + half);
  const uint64_t* right = share(b0 | uint64_t(b1) << 32);
  for (int s = 0; s < 4; s++)
    for (int half = 0; half < 2; half++)
      for (int n = 0; n < 2; n++) {
        uint64_t word = right[4 * (2 * t + n) + s];
        columns[n][2 * s + half] = value(word, half), columns[n][8 + 2 * s + half] = value(word, 2 + half);
      }
  for (int r = 0; r < 2; r++)
    for (int n = 0; n < 2; n++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += rows[r][k] * columns[n][k];
      c[2 * r + n] += sum;
    }
}

template <class T>
void load_matrices(uint32_t r[4], const T* row, bool transposed) {
  static_assert(sizeof(T) == 2);
  if (uintptr_t(row) % 16) fprintf(stderr, "cuda_host: ldmatrix of a row that is not at a multiple of 16 bytes\n"), abort();
  const uint64_t* all = share(uintptr_t(row));
  int g = lane() >> 2, t = lane() & 3;
  for (int m = 0; m < 4; m++) {
    auto at = [&](int i, int j) { return uint32_t(((const uint16_t*)all[8 * m + i])[j]); };
    r[m] = transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
  // Nobody may write these rows before everybody has read them.
  sync_warp(~0u);
}
}  // namespace cuda_host
