// Packing and the micro-kernel of every ISA against plain loops. The numbers are small integers, so
// every sum is exact in float and the results must agree to the bit.
#include "test_gemm.h"

#include <cmath>
#include <utility>

#include "kernel_testing.h"

using namespace fusedrnn;

namespace {

const std::vector<IsaTable<GemmTable>> tables{
    {"scalar", &scalar::gemm_table},
#if defined(FUSEDRNN_X86)
    {"avx2", &avx2::gemm_table},
    {"avx512", &avx512::gemm_table},
#endif
};

template <class T>
const GemmKernels<T>& kernels(const GemmTable& table) {
  if constexpr (std::is_same_v<T, float>)
    return table.f32;
  else
    return table.f64;
}

Index round_up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }

// A row-major matrix whose rows stand `stride` apart; what lies between them stays canary.
template <class T>
struct Matrix {
  Matrix(Random& random, Index rows, Index columns, Index row_stride)
      : stride(row_stride), elements(rows * row_stride) {
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < columns; ++j) at(r, j) = static_cast<T>(whole_number(random, 3));
  }
  T& at(Index r, Index j) { return elements[r * stride + j]; }

  Index stride;
  Guarded<T> elements;
};

template <class T>
std::vector<const T*> pointers(Matrix<T>& m, Index rows) {
  std::vector<const T*> result;
  for (Index r = 0; r < rows; ++r) result.push_back(&m.at(r, 0));
  return result;
}

// Columns in `count` runs of `length`, `gap` apart.
struct Runs {
  Index count, length, gap;
};

// c (+)= a b for one shape. The k-th column of a product's left operand stands in one of `runs`;
// the operand's rows stand together, or its columns if it is `transposed`.
template <class T>
struct Product {
  Runs runs;
  Index columns;
  Range range, rows;
  bool add = false, transposed = false;

  Index depth() const { return runs.count * runs.length; }
  Index a_column(Index k) const { return k / runs.length * runs.gap + k % runs.length; }
  Index c_stride() const { return columns + 3; }

  Guarded<T> packed(const GemmKernels<T>& kernels, Matrix<T>& b) const {
    Guarded<T> panels(depth() * round_up(columns, kernels.lanes));
    const Index half = depth() / 2;  // as a team does it
    kernels.pack_columns(depth(), {half, depth()}, columns, panels.data(),
                         pointers(b, depth()).data());
    kernels.pack_columns(depth(), {0, half}, columns, panels.data(), pointers(b, depth()).data());
    REQUIRE(panels.margins_untouched());
    return panels;
  }
  // What must stand in c: where this product doesn't reach, what stood there before.
  void plain(Matrix<T>& a, Matrix<T>& b, Index panel_width, Matrix<T>& c) const {
    const Index end = std::min(columns, range.end * panel_width);
    for (Index r = rows.begin; r < rows.end; ++r) {
      for (Index j = range.begin * panel_width; j < end; ++j) {
        T sum = add ? c.at(r, j) : T(0);
        for (Index k = 0; k < depth(); ++k) sum += a.at(r, a_column(k)) * b.at(k, j);
        c.at(r, j) = sum;
      }
    }
  }
  void check(const GemmKernels<T>& kernels, Random& random) const {
    CAPTURE(columns);
    CAPTURE(rows.size());
    CAPTURE(depth());
    CAPTURE(add);
    const Index a_width = runs.count * runs.gap + runs.length;
    Matrix<T> a(random, rows.end, a_width, a_width + 5), b(random, depth(), columns, columns);
    for (Index r = 0; r < rows.end; ++r)  // NaN between the runs
      for (Index i = 0; i < runs.count; ++i)
        for (Index k = runs.length; k < runs.gap; ++k)
          a.at(r, i * runs.gap + k) = a.elements.canary();
    Matrix<T> c(random, rows.end, add ? columns : 0, c_stride());
    Matrix<T> expected = c;
    plain(a, b, panel_vecs * kernels.lanes, expected);
    const Guarded<T> panels = packed(kernels, b);
    Matrix<T> turned(random, a_width, 0, rows.end + 2);
    for (Index r = 0; r < rows.end; ++r)
      for (Index k = 0; k < a_width; ++k) turned.at(k, r) = a.at(r, k);
    const Left<T> left =
        transposed ? Left<T>{turned.elements.data(),  1, turned.stride, runs.count, runs.length,
                             runs.gap * turned.stride}
                   : Left<T>{a.elements.data(), a.stride, 1, runs.count, runs.length, runs.gap};
    kernels.multiply(left, panels.data(), columns, range, rows, {c.elements.data(), c_stride()},
                     add);
    REQUIRE(c.elements == expected.elements);
  }
};

// Alone and added to what stands in c, from both kinds of left operand.
template <class T>
void check_all(Product<T> product, const GemmKernels<T>& gemm, Random& random) {
  for (const bool add : {false, true}) {
    for (const bool transposed : {false, true}) {
      product.add = add;
      product.transposed = transposed;
      product.check(gemm, random);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("gemm: pack_columns lays out panels and fills them up with zeros", T, float,
                   double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    const Index width = panel_vecs * gemm.lanes, depth = 3;
    Random random(1);
    for (Index columns = 1; columns <= 2 * width + 1; ++columns) {
      CAPTURE(columns);
      Matrix<T> b(random, depth, columns, columns + 1);
      std::vector<const T*> rows = pointers(b, depth);
      rows[1] = nullptr;
      const Index padded = round_up(columns, gemm.lanes);
      Guarded<T> panels(depth * padded), expected(depth * padded);
      // Element (k, j) stands in row k of panel j / width; the last panel is narrower.
      for (Index k = 0; k < depth; ++k) {
        for (Index j = 0; j < padded; ++j) {
          const Index first = j / width * width, this_width = std::min(width, padded - first);
          expected[first * depth + k * this_width + j - first] =
              k == 1 || j >= columns ? T(0) : b.at(k, j);
        }
      }
      gemm.pack_columns(depth, {0, depth}, columns, panels.data(), rows.data());
      REQUIRE(panels == expected);
    }
  });
}

TEST_CASE_TEMPLATE("gemm: multiply, every width and height around the tiles", T, float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    const Index width = panel_vecs * gemm.lanes;
    Random random(2);
    for (Index columns = 1; columns <= 2 * width + 1; ++columns) {
      const Index panels = (columns + width - 1) / width;
      for (Index rows = 0; rows <= 13; ++rows)  // two of the highest tiles, 6 rows, and one more
        check_all<T>({{1, 1 + (rows + columns) % 6, 0}, columns, {0, panels}, {0, rows}}, gemm,
                     random);
    }
  });
}

TEST_CASE_TEMPLATE("gemm: multiply, runs with gaps and no products at all", T, float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    Random random(3);
    for (const Runs runs : {Runs{3, 4, 7}, {2, 1, 9}, {5, 3, 3}, {1, 40, 0}, {0, 4, 7}}) {
      for (const Index columns : {1, 9, 16, 33}) {
        const Index panels = (columns + panel_vecs * gemm.lanes - 1) / (panel_vecs * gemm.lanes);
        check_all<T>({runs, columns, {0, panels}, {0, 5}}, gemm, random);
      }
    }
  });
}

TEST_CASE_TEMPLATE("gemm: multiply leaves other rows and panels alone", T, float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    const Index columns = (3 * panel_vecs + 1) * gemm.lanes;  // four panels
    Random random(4);
    for (Index begin = 0; begin <= 4; ++begin) {
      for (Index end = begin; end <= 4; ++end) {
        for (const Range rows : {Range{0, 4}, {3, 4}, {5, 18}, {2, 2}})
          check_all<T>({{1, 5, 0}, columns, {begin, end}, rows}, gemm, random);
      }
    }
  });
}

TEST_CASE_TEMPLATE("gemm: multiply_panel begins with one row for all, or with a row for each", T,
                   float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    const Index depth = 5;
    Random random(6);
    for (int vecs = 1; vecs <= panel_vecs; ++vecs) {
      const Index full = vecs * gemm.lanes;
      for (Index width = full - gemm.lanes + 1; width <= full; ++width) {
        for (Index rows = 0; rows <= 13; ++rows) {
          CAPTURE(vecs);
          CAPTURE(width);
          CAPTURE(rows);
          const bool one_row = rows % 2 == 0;
          Matrix<T> a(random, rows, depth, depth + 3), panel(random, depth, full, full);
          // One row is padded; rows that are added to end where c ends.
          Matrix<T> init(random, one_row ? 1 : rows, one_row ? full : width, full);
          Matrix<T> c(random, rows, 0, full + 1), expected = c;
          for (Index r = 0; r < rows; ++r) {
            for (Index j = 0; j < width; ++j) {
              T sum = init.at(one_row ? 0 : r, j);
              for (Index k = 0; k < depth; ++k) sum += a.at(r, k) * panel.at(k, j);
              expected.at(r, j) = sum;
            }
          }
          gemm.multiply_panel[vecs - 1]({a.elements.data(), a.stride, 1, 1, depth, 0},
                                        panel.elements.data(),
                                        {init.elements.data(), one_row ? 0 : full}, {0, rows},
                                        {c.elements.data(), c.stride}, width);
          REQUIRE(c.elements == expected.elements);
        }
      }
    }
  });
}

// A product into sums of which some are kept beside, over and over.
template <class T>
void check_long_sum(const GemmKernels<T>& gemm, Random& random, Index depth, Index columns,
                    Range rows, bool keeps_lost) {
  CAPTURE(depth);
  CAPTURE(columns);
  CAPTURE(rows.end);
  Matrix<T> a(random, depth, rows.end, rows.end + 2), b(random, depth, columns, columns);
  Guarded<T> panels(depth * round_up(columns, gemm.lanes));
  gemm.pack_columns(depth, {0, depth}, columns, panels.data(), pointers(b, depth).data());
  Matrix<T> sum(random, rows.end, columns, columns), expected = sum;
  Matrix<T> lost(random, rows.end, columns, columns);
  const LongSum<T> to{sum.elements.data(), keeps_lost ? lost.elements.data() : nullptr};
  for (const int times : {1, 2, 3}) {
    gemm.add_product({a.elements.data(), 1, a.stride, 1, depth, 0}, panels.data(), columns, rows,
                     to, times == 1);
    for (Index r = rows.begin; r < rows.end; ++r) {
      for (Index j = 0; j < columns; ++j) {
        expected.at(r, j) = 0;
        for (Index k = 0; k < depth; ++k)
          expected.at(r, j) += static_cast<T>(times) * a.at(k, r) * b.at(k, j);
        if (keeps_lost) REQUIRE(lost.at(r, j) == 0);  // of whole numbers
      }
    }
    REQUIRE(sum.elements == expected.elements);
  }
}

TEST_CASE_TEMPLATE("gemm: add_product, every width, height and length", T, float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    Random random(7);
    const Index width = panel_vecs * gemm.lanes;
    for (const bool keeps_lost : {false, true}) {
      for (Index columns = 1; columns <= 2 * width + 1; columns += 1 + columns / 7)
        check_long_sum(gemm, random, 5, columns, {0, 7}, keeps_lost);
      for (Index rows = 1; rows <= 2 * gemm.lanes; ++rows)
        check_long_sum(gemm, random, 66, width - 1, {rows / 3, rows}, keeps_lost);
      for (const Index depth : {0, 1, 63, 64, 65, 1023, 1024, 1025, 2100})
        check_long_sum(gemm, random, depth, 3, {0, 2}, keeps_lost);
    }
  });
}

TEST_CASE("gemm: a sum of many equal numbers keeps its digits") {
  // Equal numbers round alike at every step, so that their errors add up.
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<float>& gemm = kernels<float>(table);
    const Index columns = panel_vecs * gemm.lanes, rows = 8;
    Random random(8);
    for (const auto& [depth, terms] : {std::pair<Index, int>{256, 16}, {256, 4000}, {3000, 400}}) {
      CAPTURE(depth);
      CAPTURE(terms);
      Matrix<float> a(random, depth, rows, rows), b(random, depth, columns, columns);
      for (Index k = 0; k < depth; ++k) {
        for (Index r = 0; r < rows; ++r) a.at(k, r) = 1 + static_cast<float>(r) / 7;
        for (Index j = 0; j < columns; ++j) b.at(k, j) = 1 + static_cast<float>(j) / 97;
      }
      Guarded<float> panels(depth * columns), sum(rows * columns), lost(rows * columns);
      gemm.pack_columns(depth, {0, depth}, columns, panels.data(), pointers(b, depth).data());
      const LongSum<float> to{sum.data(), terms > plain_terms ? lost.data() : nullptr};
      for (int i = 0; i < terms; ++i)
        gemm.add_product({a.elements.data(), 1, rows, 1, depth, 0}, panels.data(), columns,
                         {0, rows}, to, i == 0);
      for (Index e = 0; e < rows * columns; ++e) {
        const double want = static_cast<double>(a.at(0, e / columns)) *
                            static_cast<double>(b.at(0, e % columns)) * static_cast<double>(depth) *
                            terms;
        REQUIRE(std::fabs(sum[e] - want) <= 2e-6 * want);
      }
    }
  });
}

TEST_CASE_TEMPLATE("gemm: transpose_into, any number of rows and columns", T, float, double) {
  for_each_isa(tables, [](const GemmTable& table) {
    const GemmKernels<T>& gemm = kernels<T>(table);
    const Index lanes = gemm.lanes, step = lanes + 3;
    Random random(5);
    for (Index count = 0; count <= lanes; ++count) {
      for (Index columns = 0; columns <= 2 * lanes + 1; ++columns) {
        CAPTURE(count);
        CAPTURE(columns);
        Matrix<T> rows(random, count, columns, columns + 2), to(random, columns, 0, step);
        Matrix<T> expected = to;
        for (Index k = 0; k < columns; ++k)
          for (Index i = 0; i < lanes; ++i) expected.at(k, i) = i < count ? rows.at(i, k) : T(0);
        gemm.transpose_into(pointers(rows, count).data(), static_cast<int>(count), columns,
                            to.elements.data(), step);
        REQUIRE(to.elements == expected.elements);
      }
    }
  });
}
