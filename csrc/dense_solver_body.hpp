// The narrow solver itself. Included once for every instruction set, inside a namespace of its own.

constexpr double kInfinity = std::numeric_limits<double>::infinity();

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

    static Pack costs(const T* from) { return kSign > 0 ? load_pack(from) : negative(load_pack(from)); }

    // The last entries of a row, fewer than a pack.
    Pack last_costs(const T* from) const {
        const Pack found =
            load_first(from, static_cast<int>(columns_ - whole_), kSign * std::numeric_limits<T>::infinity());
        return kSign > 0 ? found : negative(found);
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
            const Pack reduced = subtract(cost, load_pack(v_ + j));
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
                found |= std::uint64_t{bits(at_most(load_pack(distance_ + first + part), limit))} << part;
            }
        } else {
            for (Index part = 0; first + part < padded_; part += 8) {
                found |= std::uint64_t{bits(at_most(load_pack(distance_ + first + part), limit))} << part;
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
            const Pack reduced = subtract(cost, load_pack(v_ + j));
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
            const Pack reached = subtract(subtract(cost, load_pack(v_ + j)), offsets);
            const Pack known = load_pack(distance_ + j);
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
