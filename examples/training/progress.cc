#include "examples/training/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace gradwire::training {
namespace {

constexpr int kMaxColumns = 80;
constexpr std::chrono::milliseconds kRedraw{100};

int TerminalColumns(std::FILE* stream) {
  const int fd = fileno(stream);
  if (isatty(fd) == 0) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kMaxColumns;
  return std::min<int>(size.ws_col, kMaxColumns);
}

}  // namespace

Progress::Progress(std::FILE* stream) : stream_(stream), columns_(TerminalColumns(stream)) {}

void Progress::Update(std::string_view label, double done, std::string_view detail) {
  if (columns_ == 0 || Clock::now() < next_draw_) return;
  next_draw_ = Clock::now() + kRedraw;
  // The last column stays free: some terminals wrap as soon as it is written.
  Write(fmt::format("\r{}", DrawBar(label, done, detail, columns_ - 1)));
  std::fflush(stream_);
  drawn_ = true;
}

void Progress::Line(std::string_view text) {
  Clear();
  Write(fmt::format("{}\n", text));
  std::fflush(stream_);
}

void Progress::Write(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stream_); }

void Progress::Clear() {
  if (!drawn_) return;
  Write(fmt::format("\r{:{}}\r", "", columns_ - 1));
  drawn_ = false;
}

std::string Count(int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string DrawBar(std::string_view label, double done, std::string_view detail, int columns) {
  const int width = std::clamp(columns / 4, 1, 20);
  const int filled =
      static_cast<int>(std::lround(std::clamp(done, 0.0, 1.0) * static_cast<double>(width)));
  std::string line = fmt::format("{} [{:#<{}}{:.<{}}] {:3.0f}% {}", label, "", filled, "",
                                 width - filled, 100 * std::clamp(done, 0.0, 1.0), detail);
  line.resize(static_cast<size_t>(std::max(columns, 0)), ' ');
  return line;
}

std::string DrawCurve(std::string_view title, std::span<const double> values, int columns,
                      int rows) {
  constexpr int kAxis = 10;  // "  1.2345 |"
  std::string text = fmt::format("{}\n", title);
  const auto points = std::min(values.size(), static_cast<size_t>(std::max(columns - kAxis, 1)));
  if (points == 0 || rows < 2) return text;

  std::vector<double> heights;
  for (size_t i = 0; i < points; ++i) {
    const auto begin = values.begin() + static_cast<ptrdiff_t>(i * values.size() / points);
    const auto end = values.begin() + static_cast<ptrdiff_t>((i + 1) * values.size() / points);
    heights.push_back(std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin));
  }
  const auto [lowest, highest] = std::ranges::minmax(heights);
  const bool logarithmic = lowest > 0 && highest >= 10 * lowest;
  const auto scale = [&](double value) { return logarithmic ? std::log(value) : value; };
  const double low = scale(lowest);
  const double span = std::max(scale(highest) - low, 1e-12);
  const auto row_of = [&](double value) {
    return std::lround((scale(value) - low) / span * static_cast<double>(rows - 1));
  };
  // Few points are spread over the width.
  const size_t stride = std::max<size_t>(static_cast<size_t>(columns - kAxis) / points, 1);
  for (int row = rows - 1; row >= 0; --row) {
    const double at = low + span * row / (rows - 1);
    std::string line(points * stride, ' ');
    for (size_t i = 0; i < points; ++i) {
      if (row_of(heights[i]) == row) line[i * stride] = '*';
    }
    line.resize(line.find_last_not_of(' ') + 1);
    text += fmt::format("{:8.4f} |{}\n", logarithmic ? std::exp(at) : at, line);
  }
  text += fmt::format("{:8} +{:-<{}}\n", "", "", points * stride);
  return text;
}

}  // namespace gradwire::training
