// One operand of a product on its way through shared memory: how a block copies a tile of it there,
// and how a lane takes its share from there. What is said of A's rows holds for B's columns.
//
// A tile is `width` rows by 64 bytes of k, in chunks of 16 bytes. It keeps the order of the matrix,
// so that each chunk is one copy_async_16:
//
//   by_k     [width][4 chunks]                     A, or B transposed
//   not by_k [k][width * sizeof(T) / 16 chunks]    A transposed, or B
//
// A lane owns `run` consecutive rows and takes 16 bytes of k of each, as words: 4 floats, or 4
// pairs of a half type. Where the tile isn't by_k it loads `run` elements of one k at a time and
// turns them in registers; so no layout needs another instruction than loads of 4, 8 or 16 bytes.
#pragma once

#include <type_traits>

#include "../compiler.h"
#include "types.h"

namespace fusedrnn::cuda {

// What fragments are made of: a float, or two elements of a half type, the first one lower.
template <class T>
using Word = std::conditional_t<sizeof(T) == 4, float, unsigned>;

// n = 1, 2 or 4 consecutive words, in one load.
template <int n, class W>
__device__ __forceinline__ void load_words(W* words, const void* from) {
  struct alignas(4 * n) Vector {
    W v[n];
  };
  const Vector vector = *static_cast<const Vector*>(from);
  FUSEDRNN_UNROLL
  for (int i = 0; i < n; ++i) words[i] = vector.v[i];
}

template <class T, int width, int run, bool by_k>
struct Operand {
  static constexpr int elements = 16 / sizeof(T);  // of a chunk
  static constexpr int depth = 4 * elements;       // k of a tile
  static constexpr int lines = by_k ? width : depth;
  static constexpr int line_chunks = by_k ? 4 : width / elements;
  static constexpr int chunks = lines * line_chunks;
  // Lines that are swizzled alike.
  static constexpr int group = by_k ? run : 8;
  static_assert(group % 2 == 0 && (by_k || line_chunks % 8 == 0));

  // Where chunk c of line `q * group + i` lies. Banks repeat after 128 bytes, 8 chunks. They are
  // permuted so that the lanes of one load, or of one copy, that are served together find
  // different ones. With g = lane / 4 and j = lane % 4, these are
  //
  //   by_k, half types   8 lanes (16 bytes each): lines of two g, chunks j. The 4 chunks of a line
  //                      fill half the banks: bit 2 is from the group, hence from g.
  //   by_k, float32      the same chunk of lines of two g (A) or four j (B): bits 2 and 1.
  //   else, half types   four j, 8 lines apart, by 32 consecutive bytes of the g: bits 2 and 1 are
  //                      from j.
  //   else, float32      one line; consecutive or alternate chunks: any order does.
  //   copies             8 chunks of 128 consecutive bytes: a permutation of the banks.
  static FUSEDRNN_INLINE int place(int q, int i, int c) {
    if constexpr (by_k)
      return 4 * group * q + i / 2 * 8 + ((i % 2 * 4 + c) ^ (q % 2 * 4 + q / 2 % 2 * 2));
    else
      return (group * q + i) * line_chunks + (c ^ (q % 4 * 2));
  }

  static FUSEDRNN_INLINE int place_of(int line, int c) {
    return place(line / group, line % group, c);
  }

  // Begins to copy the tile that starts at *from, of which the matrix has the first `rows` rows and
  // `ks` of k; the rest becomes zero. `vectors`: 16-byte loads are allowed.
  template <int threads>
  static __device__ __forceinline__ void copy(uint4* tile, const T* from, Index ld, int rows,
                                              int ks, bool vectors) {
    constexpr int step = threads / line_chunks;  // lines in a pass
    static_assert(threads % line_chunks == 0 && lines % step == 0);
    const int thread = threadIdx.x, first = thread / line_chunks, c = thread % line_chunks;
    const int length = by_k ? rows : ks;                 // lines that there are
    const int left = (by_k ? ks : rows) - c * elements;  // elements of each, from this chunk on
    from += first * ld + c * elements;
    if (vectors && (left <= 0 || left >= elements)) {
      FUSEDRNN_UNROLL
      for (int l = 0; l < lines; l += step, from += step * ld)
        copy_async_16(tile + place_of(first + l, c), from, first + l < length && left > 0);
    } else {
      FUSEDRNN_ROLLED
      for (int line = first; line < lines; line += step, from += step * ld)
        tile[place_of(line, c)] = load_chunk(from, line < length ? left : 0);
    }
  }

  // words[i][w]: word w of chunk c of k, of row `q * run + i` of the tile.
  static __device__ __forceinline__ void load(Word<T> (&words)[run][4], const uint4* tile, int q,
                                              int c) {
    if constexpr (by_k) {
      FUSEDRNN_UNROLL
      for (int i = 0; i < run; ++i) load_words<4>(words[i], tile + place(q, i, c));
    } else if constexpr (sizeof(T) == 4) {
      FUSEDRNN_UNROLL
      for (int w = 0; w < 4; ++w) {
        float line[run];
        load_run(line, tile, 4 * c + w, q);
        FUSEDRNN_UNROLL
        for (int i = 0; i < run; ++i) words[i][w] = line[i];
      }
    } else {
      FUSEDRNN_UNROLL
      for (int w = 0; w < 4; ++w) {
        unsigned low[run / 2], high[run / 2];
        load_run(low, tile, 8 * c + 2 * w, q);
        load_run(high, tile, 8 * c + 2 * w + 1, q);
        FUSEDRNN_UNROLL
        for (int i = 0; i < run / 2; ++i) {
          words[2 * i][w] = (low[i] & 0xffffu) | high[i] << 16;
          words[2 * i + 1][w] = low[i] >> 16 | (high[i] & 0xffff0000u);
        }
      }
    }
  }

 private:
  // The lane's rows of one k, where the tile isn't by_k.
  template <int n>
  static __device__ __forceinline__ void load_run(Word<T> (&line)[n], const uint4* tile, int k,
                                                  int q) {
    constexpr int step = n < 4 ? n : 4;
    FUSEDRNN_UNROLL
    for (int h = 0; h < n; h += step) {
      const int word = q * n + h;
      const uint4* chunk = tile + place(k / group, k % group, word / 4);
      load_words<step>(line + h, reinterpret_cast<const Word<T>*>(chunk) + word % 4);
    }
  }

  // The first `left` elements of one chunk, then zeros.
  static __device__ __forceinline__ uint4 load_chunk(const T* from, int left) {
    using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned short>;
    const Bits* bits = reinterpret_cast<const Bits*>(from);
    constexpr int per_word = 4 / sizeof(T);
    unsigned words[4] = {};
    FUSEDRNN_UNROLL
    for (int e = 0; e < elements; ++e)
      if (e < left) words[e / per_word] |= static_cast<unsigned>(bits[e]) << e % per_word * 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
};

}  // namespace fusedrnn::cuda
