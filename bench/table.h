// The table on stdout, as nccl-tests prints it: the same comments, columns and widths, so that what
// parses one parses the other. Eleven columns of our own follow at the end of each row.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/runner.h"
#include "transport/bootstrap/world.h"

namespace gradwire::bench {

// One rank as the table and the report name it.
struct RankLine {
  PeerInfo peer;
  std::string transport;    // "tcp"
  std::string description;  // which device and why
};

inline constexpr int kTableColumns = 217;  // characters of a row
// All comments before the first row, the last of them the column names. `narrow`: of the columns
// only those that fit a terminal of 80 characters, all of calls in place.
std::string TableHeader(const CollectiveInfo& collective, const Options& options,
                        const std::vector<RankLine>& ranks, bool narrow = false);
// One row, without #.
std::string TableRow(const Row& row, bool narrow = false);
// The comments after the last row, with the verdicts that scripts look for.
std::string TableFooter(const CollectiveInfo& collective, const Options& options,
                        const Totals& totals);

// `value` in at most `width` characters: two decimals, fewer when they do not fit, then 1e+09.
std::string FormatNumber(double value, int width);

// Copies per byte alike, "N/A" where nobody counted any.
std::string FormatCopies(const Cost& cost, int width);

// What the columns redop and root say of a case.
std::string_view OpColumn(const Case& measured);
int RootColumn(const Case& measured);

}  // namespace gradwire::bench
