// The narrow solver itself. Included once for every instruction set, inside a namespace of its own.

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Eight doubles, what a comparison of them gives, and eight row numbers.
#if LMC_LANES == 8

using Pack = __m512d;
using Lanes = __mmask8;
using Rows = __m256i;

inline Pack fill(double value) { return _mm512_set1_pd(value); }
inline Pack load(const double* from) { return _mm512_loadu_pd(from); }
inline Pack load(const float* from) { return _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)); }
inline void store(double* to, Pack x) { _mm512_storeu_pd(to, x); }
inline Pack subtract(Pack x, Pack y) { return _mm512_sub_pd(x, y); }
inline Pack negative(Pack x) { return _mm512_sub_pd(_mm512_set1_pd(-0.0), x); }
inline Pack lesser(Pack x, Pack y) { return _mm512_maskz_min_pd(0xff, x, y); }
inline Pack greater(Pack x, Pack y) { return _mm512_maskz_max_pd(0xff, x, y); }
inline Lanes less(Pack x, Pack y) { return _mm512_cmp_pd_mask(x, y, _CMP_LT_OQ); }
inline Lanes at_most(Pack x, Pack y) { return _mm512_cmp_pd_mask(x, y, _CMP_LE_OQ); }
inline unsigned bits(Lanes lanes) { return lanes; }
inline Pack choose(Lanes lanes, Pack yes, Pack no) { return _mm512_mask_blend_pd(lanes, no, yes); }
inline Rows fill_rows(std::int32_t row) { return _mm256_set1_epi32(row); }
inline Rows load_rows(const std::int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void store_rows(std::int32_t* to, Rows rows) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rows);
}
inline Rows choose_rows(Lanes lanes, Rows yes, Rows no) { return _mm256_mask_blend_epi32(lanes, no, yes); }
inline double least_of(Pack x) {
    const __m256d half =
        _mm256_min_pd(_mm512_maskz_extractf64x4_pd(0xf, x, 0), _mm512_maskz_extractf64x4_pd(0xf, x, 1));
    const __m128d pair = _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_min_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

#elif LMC_LANES == 4

struct Pack {
    __m256d low, high;
};
using Lanes = Pack;
using Rows = __m256i;

inline Pack fill(double value) { return {_mm256_set1_pd(value), _mm256_set1_pd(value)}; }
inline Pack load(const double* from) { return {_mm256_loadu_pd(from), _mm256_loadu_pd(from + 4)}; }
inline Pack load(const float* from) {
    return {_mm256_cvtps_pd(_mm_loadu_ps(from)), _mm256_cvtps_pd(_mm_loadu_ps(from + 4))};
}
inline void store(double* to, const Pack& x) {
    _mm256_storeu_pd(to, x.low);
    _mm256_storeu_pd(to + 4, x.high);
}
inline Pack subtract(const Pack& x, const Pack& y) {
    return {_mm256_sub_pd(x.low, y.low), _mm256_sub_pd(x.high, y.high)};
}
inline Pack negative(const Pack& x) { return subtract(fill(-0.0), x); }
inline Pack lesser(const Pack& x, const Pack& y) {
    return {_mm256_min_pd(x.low, y.low), _mm256_min_pd(x.high, y.high)};
}
inline Pack greater(const Pack& x, const Pack& y) {
    return {_mm256_max_pd(x.low, y.low), _mm256_max_pd(x.high, y.high)};
}
inline Lanes less(const Pack& x, const Pack& y) {
    return {_mm256_cmp_pd(x.low, y.low, _CMP_LT_OQ), _mm256_cmp_pd(x.high, y.high, _CMP_LT_OQ)};
}
inline Lanes at_most(const Pack& x, const Pack& y) {
    return {_mm256_cmp_pd(x.low, y.low, _CMP_LE_OQ), _mm256_cmp_pd(x.high, y.high, _CMP_LE_OQ)};
}
inline unsigned bits(const Lanes& lanes) {
    return static_cast<unsigned>(_mm256_movemask_pd(lanes.low) | _mm256_movemask_pd(lanes.high) << 4);
}
inline Pack choose(const Lanes& lanes, const Pack& yes, const Pack& no) {
    return {_mm256_blendv_pd(no.low, yes.low, lanes.low), _mm256_blendv_pd(no.high, yes.high, lanes.high)};
}
inline Rows fill_rows(std::int32_t row) { return _mm256_set1_epi32(row); }
inline Rows load_rows(const std::int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void store_rows(std::int32_t* to, Rows rows) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rows);
}
inline Rows choose_rows(const Lanes& lanes, Rows yes, Rows no) {
    const __m256 mixed = _mm256_shuffle_ps(_mm256_castpd_ps(lanes.low), _mm256_castpd_ps(lanes.high), 0x88);
    const __m256i ordered = _mm256_permute4x64_epi64(_mm256_castps_si256(mixed), 0xd8);
    return _mm256_blendv_epi8(no, yes, ordered);
}
inline double least_of(const Pack& x) {
    const __m256d half = _mm256_min_pd(x.low, x.high);
    const __m128d pair = _mm_min_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_min_sd(pair, _mm_unpackhi_pd(pair, pair)));
}

#else

struct Pack {
    double x[8];
};
struct Lanes {
    bool x[8];
};
struct Rows {
    std::int32_t x[8];
};

template <typename Result, typename Each>
inline Result each_lane(Each&& each) {
    Result result;
    for (int lane = 0; lane < 8; ++lane) result.x[lane] = each(lane);
    return result;
}

inline Pack fill(double value) {
    return each_lane<Pack>([=](int) { return value; });
}
template <typename T>
inline Pack load(const T* from) {
    return each_lane<Pack>([=](int k) { return static_cast<double>(from[k]); });
}
inline void store(double* to, const Pack& x) {
    for (int lane = 0; lane < 8; ++lane) to[lane] = x.x[lane];
}
inline Pack subtract(const Pack& x, const Pack& y) {
    return each_lane<Pack>([&](int k) { return x.x[k] - y.x[k]; });
}
inline Pack negative(const Pack& x) {
    return each_lane<Pack>([&](int k) { return -x.x[k]; });
}
inline Pack lesser(const Pack& x, const Pack& y) {
    return each_lane<Pack>([&](int k) { return x.x[k] < y.x[k] ? x.x[k] : y.x[k]; });
}
inline Pack greater(const Pack& x, const Pack& y) {
    return each_lane<Pack>([&](int k) { return x.x[k] > y.x[k] ? x.x[k] : y.x[k]; });
}
inline Lanes less(const Pack& x, const Pack& y) {
    return each_lane<Lanes>([&](int k) { return x.x[k] < y.x[k]; });
}
inline Lanes at_most(const Pack& x, const Pack& y) {
    return each_lane<Lanes>([&](int k) { return x.x[k] <= y.x[k]; });
}
inline unsigned bits(const Lanes& lanes) {
    unsigned found = 0;
    for (int lane = 0; lane < 8; ++lane) found |= static_cast<unsigned>(lanes.x[lane]) << lane;
    return found;
}
inline Pack choose(const Lanes& lanes, const Pack& yes, const Pack& no) {
    return each_lane<Pack>([&](int k) { return lanes.x[k] ? yes.x[k] : no.x[k]; });
}
inline Rows fill_rows(std::int32_t row) {
    return each_lane<Rows>([=](int) { return row; });
}
inline Rows load_rows(const std::int32_t* from) {
    return each_lane<Rows>([=](int k) { return from[k]; });
}
inline void store_rows(std::int32_t* to, const Rows& rows) {
    for (int lane = 0; lane < 8; ++lane) to[lane] = rows.x[lane];
}
inline Rows choose_rows(const Lanes& lanes, const Rows& yes, const Rows& no) {
    return each_lane<Rows>([&](int k) { return lanes.x[k] ? yes.x[k] : no.x[k]; });
}
inline double least_of(const Pack& x) {
    double least = x.x[0];
    for (int lane = 1; lane < 8; ++lane) least = x.x[lane] < least ? x.x[lane] : least;
    return least;
}

#endif

// Jonker & Volgenant (1987): column reduction, reduction transfer, augmenting row reduction, and shortest
// augmenting paths of one open row after another. Vectors by column are padded to whole packs; the padding
// costs +inf.
template <int kSign, typename T>
class DenseSolver {
  public:
    DenseSolver(const LapCost<T>& cost, const LapState& state, Poll& poll)
        : cost_(cost),
          rows_(cost.rows),
          columns_(cost.columns),
          whole_(columns_ / 8 * 8),
          padded_((columns_ + 7) / 8 * 8),
          words_((columns_ + 63) / 64),
          column_of_row_(state.column_of_row),
          poll_(poll),
          memory_(size()),
          v_(memory_.take<double>(width())),
          distance_(memory_.take<double>(width())),
          parent_(memory_.take<std::int32_t>(width())),
          owner_(memory_.take<std::int32_t>(width())),
          open_columns_(memory_.take<std::uint64_t>(static_cast<std::size_t>(words_))),
          settled_(memory_.take<Settled>(static_cast<std::size_t>(rows_))),
          open_(memory_.take<std::int32_t>(static_cast<std::size_t>(rows_))),
          constant_(memory_.take<char>(static_cast<std::size_t>(rows_))) {}

    std::optional<LapOutcome> run(const LapState& state, Index most_open) {
        open_all_columns();
        if (!(state.warm ? restart(state) : start())) return outcome_;
        list_open_rows();
        if (!spare_ && open_count_ > most_open) return std::nullopt;
        if (!reduce_open_rows() || !augment_all()) return outcome_;
        match_set_aside();
        for (Index i = 0; i < rows_; ++i) {
            state.row_duals[i] = kSign * (entry(i, column_of_row_[i]) - v_[column_of_row_[i]]);
        }
        for (Index j = 0; j < columns_; ++j) state.column_duals[j] = kSign * v_[j];
        return outcome_;
    }

  private:
    static constexpr std::int32_t kOpen = -1;
    static constexpr int kReductionPasses = 2;
    // Rows that are constant are set aside where they are more than one in so many.
    static constexpr Index kFewConstant = 32;
    // A matched entry counts as tight within a few roundings, or a warm start would open rows for nothing.
    static constexpr double kTight = 8 * std::numeric_limits<double>::epsilon();

    struct Settled {
        Index column;
        double distance;
        double v;
    };

    struct TwoLeast {
        double least;
        double second;
    };

    std::size_t width() const { return static_cast<std::size_t>(padded_); }
    std::size_t size() const {
        const auto rows = static_cast<std::size_t>(rows_);
        return 2 * DenseMemory::size_of<double>(width()) + 2 * DenseMemory::size_of<std::int32_t>(width()) +
               DenseMemory::size_of<std::uint64_t>(static_cast<std::size_t>(words_)) +
               DenseMemory::size_of<Settled>(rows) + DenseMemory::size_of<std::int32_t>(rows) +
               DenseMemory::size_of<char>(rows);
    }

    const T* row(Index i) const { return cost_.data + i * cost_.row_stride; }
    double entry(Index i, Index j) const { return kSign * static_cast<double>(row(i)[j]); }

    bool fail(LapStatus status, Index i = -1, Index j = -1) {
        outcome_ = {status, i, j};
        return false;
    }

    bool proceed() { return poll_.work(columns_) || fail(LapStatus::interrupted); }

    static Pack costs(const T* from) { return kSign > 0 ? load(from) : negative(load(from)); }

    // The last entries of a row, fewer than a pack.
    Pack last_costs(const T* from) const {
#if LMC_LANES == 8
        const auto there = static_cast<__mmask8>((1U << (columns_ - whole_)) - 1);
        Pack found;
        if constexpr (std::is_same_v<T, float>) {
            found = _mm512_maskz_cvtps_pd(0xff, _mm256_maskz_loadu_ps(there, from));
        } else {
            found = _mm512_maskz_loadu_pd(there, from);
        }
        return choose(there, kSign > 0 ? found : negative(found), fill(kInfinity));
#else
        T copy[8];
        for (int lane = 0; lane < 8; ++lane) {
            copy[lane] = lane < columns_ - whole_ ? from[lane] : kSign * std::numeric_limits<T>::infinity();
        }
        return costs(copy);
#endif
    }

    // Calls visit(pack of costs, first column) for a whole row.
    template <typename Visit>
    void for_each_pack(Index i, Visit&& visit) const {
        const T* const entries = row(i);
        for (Index j = 0; j < whole_; j += 8) visit(costs(entries + j), j);
        if (whole_ < columns_) visit(last_costs(entries + whole_), whole_);
    }

    // What is wrong with entries seen so far.
    struct Faults {
        unsigned invalid = 0;
        unsigned too_large = 0;
        void look(const Pack& cost) {
            invalid |= ~bits(less(fill(-kInfinity), cost)) & 0xff;
            if constexpr (std::is_same_v<T, double>) {
                too_large |= (bits(less(fill(kLargestEntry), cost)) & bits(less(cost, fill(kInfinity)))) |
                             bits(less(cost, fill(-kLargestEntry)));
            }
        }
    };

    bool judge(const Faults& faults) {
        if (faults.invalid != 0) {
            for (Index i = 0; i < rows_; ++i) {
                for (Index j = 0; j < columns_; ++j) {
                    if (entry(i, j) > -kInfinity) continue;
                    return fail(std::isnan(row(i)[j]) ? LapStatus::nan : LapStatus::wrong_infinity, i, j);
                }
            }
        }
        return faults.too_large == 0 || fail(LapStatus::too_large);
    }

    void open_all_columns() {
        for (Index j = 0; j < columns_; ++j) owner_[j] = kOpen;
        for (Index word = 0; word < words_; ++word) open_columns_[word] = ~std::uint64_t{0};
        if (columns_ % 64 != 0) open_columns_[words_ - 1] = (std::uint64_t{1} << columns_ % 64) - 1;
    }

    bool is_open(Index j) const { return owner_[j] < 0; }

    void match(Index i, Index j) {
        column_of_row_[i] = j;
        owner_[j] = static_cast<std::int32_t>(i);
        open_columns_[j / 64] &= ~(std::uint64_t{1} << j % 64);
    }

    void release(Index i) {
        const Index j = column_of_row_[i];
        column_of_row_[i] = kOpen;
        owner_[j] = kOpen;
        open_columns_[j / 64] |= std::uint64_t{1} << j % 64;
    }

    void list_open_rows() {
        open_count_ = 0;
        for (Index i = 0; i < rows_; ++i) {
            if (column_of_row_[i] < 0 && !set_aside(i)) open_[open_count_++] = static_cast<std::int32_t>(i);
        }
    }

    bool set_aside(Index i) const { return any_aside_ && constant_[i] != 0; }

    // A constant row costs the same wherever it goes, so it takes a column that the others leave over. Units
    // that never fire make such rows, and their ties would hold up every search.
    void find_constant_rows() {
        Index count = 0;
        for (Index i = 0; i < rows_; ++i) {
            const T* const entries = row(i);
            const T first = entries[0];
            bool same = first == entries[columns_ / 2] && first == entries[columns_ - 1] &&
                        std::abs(first) < std::numeric_limits<T>::infinity();
            for (Index j = 1; same && j < columns_; ++j) same = entries[j] == first;
            constant_[i] = same ? 1 : 0;
            count += same;
        }
        if (count * kFewConstant > rows_) spare_ = any_aside_ = true;
    }

    void match_set_aside() {
        if (!any_aside_) return;
        Index j = 0;
        for (Index i = 0; i < rows_; ++i) {
            if (column_of_row_[i] >= 0) continue;
            while (!is_open(j)) ++j;
            match(i, j);
        }
    }

    bool start() {
        for (Index i = 0; i < rows_; ++i) column_of_row_[i] = kOpen;
        Faults faults;
        if (rows_ == columns_) {
            if (!reduce_columns(faults) || !judge(faults)) return false;
        } else if (!look_at_rows(faults)) {
            return false;
        }
        find_constant_rows();
        // A column that may stay without a row must keep a dual of 0.
        if (spare_) {
            for (Index j = 0; j < padded_; ++j) v_[j] = 0;
            return true;
        }
        if (match_least() == rows_) return true;
        transfer_reduction();
        return poll_.work(rows_ * columns_) || fail(LapStatus::interrupted);
    }

    bool look_at_rows(Faults& faults) {
        for (Index i = 0; i < rows_; ++i) {
            if (!proceed()) return false;
            for_each_pack(i, [&](const Pack& cost, Index) { faults.look(cost); });
        }
        return judge(faults);
    }

    // The dual of each column becomes its least cost; its parent is the first row that has it.
    bool reduce_columns(Faults& faults) {
        constexpr Index kBlock = 32;
        Index first = 0;
        for (; first + kBlock <= columns_; first += kBlock) {
            Pack least[4] = {fill(kInfinity), fill(kInfinity), fill(kInfinity), fill(kInfinity)};
            Rows parents[4] = {fill_rows(kOpen), fill_rows(kOpen), fill_rows(kOpen), fill_rows(kOpen)};
            for (Index i = 0; i < rows_; ++i) {
                const T* const entries = row(i) + first;
                for (int part = 0; part < 4; ++part) {
                    lower(costs(entries + 8 * part), i, least[part], parents[part], faults);
                }
            }
            for (int part = 0; part < 4; ++part) {
                store(v_ + first + 8 * part, least[part]);
                store_rows(parent_ + first + 8 * part, parents[part]);
            }
            if (!poll_.work(kBlock * rows_)) return fail(LapStatus::interrupted);
        }
        for (; first < columns_; first += 8) {
            Pack least = fill(kInfinity);
            Rows parents = fill_rows(kOpen);
            for (Index i = 0; i < rows_; ++i) {
                const T* const entries = row(i) + first;
                lower(first < whole_ ? costs(entries) : last_costs(entries), i, least, parents, faults);
            }
            store(v_ + first, least);
            store_rows(parent_ + first, parents);
        }
        return true;
    }

    static void lower(const Pack& cost, Index i, Pack& least, Rows& parents, Faults& faults) {
        faults.look(cost);
        parents = choose_rows(less(cost, least), fill_rows(static_cast<std::int32_t>(i)), parents);
        least = lesser(cost, least);
    }

    // The row that has a column's least cost takes the column if it has none; returns how many do. `open_`
    // counts its columns.
    Index match_least() {
        Index matched = 0;
        for (Index i = 0; i < rows_; ++i) open_[i] = 0;
        for (Index j = columns_ - 1; j >= 0; --j) {
            const std::int32_t i = parent_[j];
            if (i < 0) {
                v_[j] = 0;  // No row may take it; the search finds out which row that leaves open.
                continue;
            }
            ++open_[i];
            if (column_of_row_[i] >= 0) continue;
            match(i, j);
            ++matched;
        }
        for (Index j = columns_; j < padded_; ++j) v_[j] = 0;
        return matched;
    }

    // A row that is least in one column only lowers that column until its own second choice is as good.
    void transfer_reduction() {
        for (Index i = 0; i < rows_; ++i) {
            if (open_[i] != 1) continue;
            const Index j = column_of_row_[i];
            const TwoLeast found = two_least(i);
            const double own = distance_[j];
            const double other = found.least < own ? found.least : found.second;
            if (other > own && other < kInfinity) v_[j] -= other - own;
        }
    }

    // Leaves the row's reduced costs in distance_.
    TwoLeast two_least(Index i) {
        Pack least = fill(kInfinity);
        Pack second = least;
        for_each_pack(i, [&](const Pack& cost, Index j) {
            const Pack reduced = subtract(cost, load(v_ + j));
            store(distance_ + j, reduced);
            second = lesser(second, greater(least, reduced));
            least = lesser(least, reduced);
        });
        const double best = least_of(least);
        const Lanes have = at_most(least, fill(best));
        const unsigned lanes = bits(have);
        const bool tied = (lanes & (lanes - 1)) != 0;
        return {best, tied ? best : least_of(choose(have, second, least))};
    }

    // The columns of one word whose distance is at most `level`.
    std::uint64_t columns_within(double level, Index word) const {
        const Pack limit = fill(level);
        const Index first = 64 * word;
        std::uint64_t found = 0;
        if (first + 64 <= padded_) {
            for (Index part = 0; part < 64; part += 8) {
                found |= std::uint64_t{bits(at_most(load(distance_ + first + part), limit))} << part;
            }
        } else {
            for (Index part = 0; first + part < padded_; part += 8) {
                found |= std::uint64_t{bits(at_most(load(distance_ + first + part), limit))} << part;
            }
        }
        return found;
    }

    // An open column within the level if there is one, else the first within it.
    Index best_column(double level) const {
        Index first = -1;
        for (Index word = 0; word < words_; ++word) {
            const std::uint64_t found = columns_within(level, word);
            if (found == 0) continue;
            const std::uint64_t open = found & open_columns_[word];
            if (open != 0) return 64 * word + lowest_bit(open);
            if (first < 0) first = 64 * word + lowest_bit(found);
        }
        return first;
    }

    // Augmenting row reduction: an open row takes its best column and lowers it until its second is as good;
    // the row that had it looks for another at once. Rounding can make such a chain very long, so the scans
    // of a pass are limited; what is left over is for the search.
    bool reduce_open_rows() {
        for (int pass = 0; pass < kReductionPasses && open_count_ > 0; ++pass) {
            const Index open = open_count_;
            open_count_ = 0;
            Index chained = 2 * rows_;
            for (Index k = 0; k < open; ++k) {
                std::int32_t i = open_[k];
                while (i >= 0) {
                    if (!proceed()) return false;
                    const TwoLeast found = two_least(i);
                    if (found.least == kInfinity) return fail(LapStatus::infeasible, i);
                    const Index j = best_column(found.least);
                    const double lowered = v_[j] - (found.second - found.least);
                    const bool falls = lowered < v_[j] && found.second < kInfinity;
                    const std::int32_t loser = owner_[j];
                    if (!falls && loser >= 0) {
                        open_[open_count_++] = i;
                        break;
                    }
                    if (falls) v_[j] = lowered;
                    if (loser >= 0) column_of_row_[loser] = kOpen;
                    match(i, j);
                    i = loser;
                    if (i >= 0 && chained-- <= 0) {
                        open_[open_count_++] = i;
                        break;
                    }
                }
            }
        }
        return true;
    }

    bool augment_all() {
        for (Index k = 0; k < open_count_; ++k) {
            if (!search(open_[k])) return false;
        }
        return true;
    }

    // Dijkstra over reduced costs from one open row to the nearest open column, which is matched.
    bool search(std::int32_t source) {
        settled_count_ = 0;
        if (!proceed()) return false;
        double level = reach_from(source);
        for (Index next = 0;;) {
            if (level == kInfinity) return fail(LapStatus::infeasible, source);
            const Index end = settle(level);
            if (end >= 0) {
                augment(source, end, level);
                return true;
            }
            double least = kInfinity;
            do {
                const Settled& from = settled_[next++];
                const std::int32_t i = owner_[from.column];
                if (!proceed()) return false;
                least = relax(i, entry(i, from.column) - from.v - from.distance);
            } while (least > level && next < settled_count_);
            level = least > level ? least : level;
        }
    }

    double reach_from(std::int32_t source) {
        Pack least = fill(kInfinity);
        const Rows rows = fill_rows(source);
        for_each_pack(source, [&](const Pack& cost, Index j) {
            const Pack reduced = subtract(cost, load(v_ + j));
            store(distance_ + j, reduced);
            store_rows(parent_ + j, rows);
            least = lesser(least, reduced);
        });
        return least_of(least);
    }

    // Lowers the distances that are shorter through row i; returns the least distance. Settled columns have a
    // dual of -inf here, so none of them is reached again.
    double relax(std::int32_t i, double offset) {
        Pack least = fill(kInfinity);
        const Pack offsets = fill(offset);
        const Rows rows = fill_rows(i);
        for_each_pack(i, [&](const Pack& cost, Index j) {
            const Pack reached = subtract(subtract(cost, load(v_ + j)), offsets);
            const Pack known = load(distance_ + j);
            const Pack shorter = lesser(reached, known);
            store(distance_ + j, shorter);
            store_rows(parent_ + j, choose_rows(less(reached, known), rows, load_rows(parent_ + j)));
            least = lesser(least, shorter);
        });
        return least_of(least);
    }

    // Settles the columns within the level; returns one that is open instead, if there is one.
    Index settle(double level) {
        for (Index word = 0; word < words_; ++word) {
            std::uint64_t found = columns_within(level, word);
            const std::uint64_t open = found & open_columns_[word];
            if (open != 0) return 64 * word + lowest_bit(open);
            for (; found != 0; found &= found - 1) {
                const Index j = 64 * word + lowest_bit(found);
                settled_[settled_count_++] = {j, level, v_[j]};
                distance_[j] = kInfinity;
                v_[j] = -kInfinity;
            }
        }
        return -1;
    }

    void augment(std::int32_t source, Index end, double level) {
        for (Index k = 0; k < settled_count_; ++k) {
            v_[settled_[k].column] = settled_[k].v + (settled_[k].distance - level);
        }
        for (Index j = end;;) {
            const std::int32_t i = parent_[j];
            const Index before = column_of_row_[i];
            match(i, j);
            if (i == source) return;
            j = before;
        }
    }

    // Takes the duals and the matching that came; opens the rows whose column is not their best.
    bool restart(const LapState& state) {
        for (Index i = 0; i < rows_; ++i) {
            const Index j = column_of_row_[i];
            if (j != kOpen) match(i, j);
        }
        Faults faults;
        if (!look_at_rows(faults)) return false;
        find_constant_rows();
        take_duals(state);
        double* const u = state.row_duals;
        for (Index i = 0; i < rows_; ++i) {
            if (!proceed()) return false;
            u[i] = two_least(i).least;
            const Index j = column_of_row_[i];
            if (j == kOpen) continue;
            if (set_aside(i)) {
                release(i);
                continue;
            }
            const double rounding = kTight * (std::abs(entry(i, j)) + std::abs(v_[j]));
            if (entry(i, j) == kInfinity || !(distance_[j] - u[i] <= rounding)) release(i);
        }
        return !spare_ || raise_open_columns(u);
    }

    // Where columns are left over, none may be above their 0.
    void take_duals(const LapState& state) {
        double highest = -kInfinity;
        for (Index j = 0; j < columns_; ++j) {
            v_[j] = kSign * state.column_duals[j];
            if (v_[j] > highest) highest = v_[j];
        }
        for (Index j = columns_; j < padded_; ++j) v_[j] = 0;
        for (Index j = 0; spare_ && j < columns_; ++j) v_[j] -= highest;
    }

    // A column without a row must have a dual of 0; a row that this makes lose its tight entry opens in turn.
    // Every column rises once at most.
    bool raise_open_columns(double* u) {
        Index count = 0;
        for (Index j = 0; j < columns_; ++j) {
            if (is_open(j) && v_[j] < 0) parent_[count++] = static_cast<std::int32_t>(j);
        }
        while (count > 0) {
            const Index j = parent_[--count];
            v_[j] = 0;
            if (!proceed()) return false;
            for (Index i = 0; i < rows_; ++i) {
                if (!(entry(i, j) < u[i])) continue;
                u[i] = entry(i, j);
                const Index lost = column_of_row_[i];
                if (lost == kOpen) continue;
                release(i);
                if (v_[lost] < 0) parent_[count++] = static_cast<std::int32_t>(lost);
            }
        }
        return true;
    }

    const LapCost<T> cost_;
    const Index rows_;
    const Index columns_;
    const Index whole_;   // columns in whole packs
    const Index padded_;  // columns and padding
    const Index words_;
    Index* const column_of_row_;
    Poll& poll_;
    DenseMemory memory_;

    double* const v_;                    // -inf where settled
    double* const distance_;             // +inf where settled
    std::int32_t* const parent_;         // the row through which a column was reached
    std::int32_t* const owner_;          // the row that has a column
    std::uint64_t* const open_columns_;  // a bit for every column without a row
    Settled* const settled_;
    std::int32_t* const open_;       // rows
    char* const constant_;           // by row; read only where rows are set aside
    bool spare_ = rows_ < columns_;  // columns will be left over by the rows that are not set aside
    bool any_aside_ = false;
    Index settled_count_ = 0;
    Index open_count_ = 0;
    LapOutcome outcome_{LapStatus::ok};
};

template <int kSign, typename T>
std::optional<LapOutcome> solve_dense(const LapCost<T>& cost, const LapState& state, Poll& poll,
                                      Index most_open) {
    return DenseSolver<kSign, T>(cost, state, poll).run(state, most_open);
}
