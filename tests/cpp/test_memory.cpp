// Aligned and scratch memory: where it lies, that it is not given out twice, and that sizes beyond
// any machine are refused.
#include "cpu/memory.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

using namespace fusedrnn;

namespace {

constexpr std::int64_t kept = 1 << 20;  // what a thread keeps

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % cache_line == 0; }

// Memory that is filled with one byte each: whoever overlaps with it is found out.
struct Piece {
  Piece(Scratch& scratch, std::int64_t bytes, char mark)
      : data(scratch.take<char>(bytes)), size(bytes), byte(mark) {
    CHECK(aligned(data));
    std::memset(data, mark, static_cast<std::size_t>(size));
  }
  bool intact() const {
    for (std::int64_t i = 0; i < size; ++i)
      if (data[i] != byte) return false;
    return true;
  }
  char* data;
  std::int64_t size;
  char byte;
};

}  // namespace

// Lest a sanitizer ends the process where malloc would return null.
#define FUSEDRNN_OPTIONS extern "C" [[gnu::visibility("default")]] const char*
FUSEDRNN_OPTIONS __asan_default_options() { return "allocator_may_return_null=1"; }
FUSEDRNN_OPTIONS __tsan_default_options() { return "allocator_may_return_null=1"; }

TEST_CASE("checked_product: bad_alloc where it overflows") {
  CHECK(checked_product(0, INT64_MAX) == 0);
  CHECK(checked_product(INT64_MAX, 1) == INT64_MAX);
  CHECK(checked_product(std::int64_t{1} << 31, std::int64_t{1} << 31) == std::int64_t{1} << 62);
  CHECK_THROWS_AS(checked_product(INT64_MAX, 2), std::bad_alloc);
  CHECK_THROWS_AS(checked_product(std::int64_t{1} << 32, std::int64_t{1} << 31), std::bad_alloc);
}

TEST_CASE("AlignedBuffer: aligned, also when empty, and never larger than memory") {
  for (const std::int64_t n : {0, 1, 15, 16, 17, 1000}) {
    const AlignedBuffer<float> buffer(n);
    CHECK(aligned(buffer.data()));
    CHECK(buffer.data() != nullptr);
    CHECK(buffer.bytes() == 4 * n);
    for (std::int64_t i = 0; i < n; ++i) buffer.data()[i] = 1;
  }
  CHECK(AlignedBuffer<double>().data() == nullptr);
  for (const std::int64_t n : {INT64_MAX, INT64_MAX / 8, INT64_MAX / 16, std::int64_t{1} << 56})
    CHECK_THROWS_AS(AlignedBuffer<double>{n}, std::bad_alloc);
}

TEST_CASE("Scratch: the next call gets the same memory again") {
  char* first;
  {
    Scratch scratch;
    first = scratch.take<char>(100);
  }
  for (int call = 0; call < 3; ++call) {
    Scratch scratch;
    CHECK(scratch.take<char>(100) == first);
  }
}

TEST_CASE("Scratch: pieces never overlap, and all are aligned") {
  for (int call = 0; call < 3; ++call) {  // from the kept block, then beside it; then small again
    Scratch scratch;
    std::vector<Piece> pieces;
    char mark = 0;
    for (const std::int64_t bytes :
         {std::int64_t{1}, std::int64_t{0}, std::int64_t{64}, std::int64_t{65}, std::int64_t{1000},
          kept / 2, kept / 2, std::int64_t{100}, kept, 3 * kept, std::int64_t{7}})
      pieces.emplace_back(scratch, bytes, ++mark);
    for (const Piece& piece : pieces) CHECK(piece.intact());
  }
}

TEST_CASE("Scratch: the whole kept block, and one byte more") {
  Scratch scratch;
  const Piece all(scratch, kept, 1), more(scratch, 1, 2);
  CHECK(all.intact());
  CHECK(more.intact());
}

TEST_CASE("Scratch: large, then small, then large again") {
  for (const std::int64_t bytes : {4 * kept, std::int64_t{10}, 4 * kept, kept, std::int64_t{10}}) {
    Scratch scratch;
    const Piece a(scratch, bytes, 1), b(scratch, bytes, 2);
    CHECK(a.intact());
    CHECK(b.intact());
  }
}

TEST_CASE("Scratch: an inner one takes nothing from an outer one") {
  char* after_all;
  {
    Scratch outer;
    const Piece a(outer, 1000, 1);
    after_all = a.data;
    for (int call = 0; call < 3; ++call) {
      Scratch inner;
      const Piece b(inner, call == 1 ? kept : 1000, 2);
      CHECK(a.intact());
    }
    const Piece c(outer, 1000, 3), d(outer, kept, 4);
    CHECK(a.intact());
    CHECK(c.intact());
  }
  Scratch next;
  CHECK(next.take<char>(1000) == after_all);
}

TEST_CASE("SpareBlocks: give back what was given last, of the same size, within limits") {
  constexpr std::int64_t size = std::int64_t{5} << 20;
  const auto block = [](std::int64_t bytes) { return std::aligned_alloc(cache_line, bytes); };
  SpareBlocks spare;
  CHECK(spare.take(size) == nullptr);
  void* const a = block(size);
  void* const b = block(2 * size);
  spare.give(a, size);
  spare.give(b, 2 * size);
  CHECK(spare.take(3 * size) == nullptr);
  CHECK(spare.take(2 * size) == b);
  CHECK(spare.take(2 * size) == nullptr);
  CHECK(spare.take(size) == a);
  std::free(a);
  std::free(b);
  spare.give(block(size), size);
  spare.give(block(size * 100), size * 100);  // more than it keeps of anything
  CHECK(spare.take(size * 100) == nullptr);
  for (int i = 0; i < 40; ++i) spare.give(block(size + i * 64), size + i * 64);  // 200 MiB and 40
  CHECK(spare.take(size) == nullptr);
  CHECK(spare.take(size + 64) == nullptr);
  int kept = 0;
  for (int i = 39; i >= 0; --i) {
    void* const p = spare.take(size + i * 64);
    const bool last = p != nullptr;
    CHECK(last == (i >= 24));  // 16 blocks
    kept += last;
    std::free(p);
  }
  CHECK(kept == 16);
  for (int i = 0; i < 4; ++i) spare.give(block(size * 10), size * 10);  // 2 of them in 128 MiB
  void* const c = spare.take(size * 10);
  void* const d = spare.take(size * 10);
  CHECK((c != nullptr && d != nullptr));
  CHECK(spare.take(size * 10) == nullptr);
  std::free(c);
  std::free(d);
}

TEST_CASE("AlignedBuffer: a large one comes back if asked, also from several threads at once") {
  constexpr std::int64_t n = (std::int64_t{9} << 20) + 4;
  void* first = AlignedBuffer<char>(n, Reuse::spare_blocks).data();
  CHECK(AlignedBuffer<char>(n, Reuse::spare_blocks).data() == first);
  std::vector<std::thread> threads;
  std::atomic<bool> alone{true};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const AlignedBuffer<char> mine(n, Reuse::spare_blocks);
        mine.data()[0] = mine.data()[n - 1] = static_cast<char>(t);
        std::this_thread::yield();
        if (mine.data()[0] != t || mine.data()[n - 1] != t) alone = false;
      }
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(alone);
}

TEST_CASE("Scratch: bad_alloc for sizes beyond any machine, and it works on after that") {
  Scratch scratch;
  const Piece before(scratch, 100, 1);
  CHECK_THROWS_AS(scratch.take<double>(INT64_MAX), std::bad_alloc);
  CHECK_THROWS_AS(scratch.take<double>(INT64_MAX / 8), std::bad_alloc);
  CHECK_THROWS_AS(scratch.take<char>(INT64_MAX), std::bad_alloc);
  CHECK_THROWS_AS(scratch.take<char>(INT64_MAX - 64), std::bad_alloc);
  CHECK_THROWS_AS(scratch.take<char>(INT64_MAX - 128), std::bad_alloc);
  CHECK_THROWS_AS(scratch.take<char>(std::int64_t{1} << 59), std::bad_alloc);
  const Piece after(scratch, 100, 2);
  CHECK(before.intact());
  CHECK(after.intact());
}

TEST_CASE("Scratch: take_zeroed is zero, on memory that was used before as well") {
  {
    Scratch scratch;
    const Piece used(scratch, 4000, 7);
  }
  Scratch scratch;
  const float* zeros = scratch.take_zeroed<float>(1000);
  for (int i = 0; i < 1000; ++i) REQUIRE(zeros[i] == 0);
}

TEST_CASE("Scratch: a lasting one takes nothing from the thread, and may end in another") {
  auto lasting = std::make_unique<Scratch>(true);
  const Piece kept_piece(*lasting, 1000, 1);
  char* first;
  {
    Scratch scratch;
    first = scratch.take<char>(100);
  }
  std::thread([&] {
    CHECK(kept_piece.intact());
    const Piece more(*lasting, 1000, 2);
    CHECK(kept_piece.intact());
    lasting.reset();
    Scratch scratch;
    const Piece whole(scratch, kept, 3), beside(scratch, 100, 4);
    CHECK(whole.intact());
  }).join();
  Scratch scratch;
  CHECK(scratch.take<char>(100) == first);
  const Piece rest(scratch, kept - 128, 5), beside(scratch, 100, 6);
  CHECK(rest.intact());
}

TEST_CASE("Scratch: each thread has its own") {
  Scratch scratch;
  const Piece here(scratch, 1000, 1);
  std::thread([] {
    Scratch other;
    const Piece there(other, 1000, 2);
    CHECK(there.intact());
  }).join();
  CHECK(here.intact());
}
