#include "analysis/report/layout.h"

#include <algorithm>
#include <cstdint>

namespace gradwire::analysis {
namespace {

// The code point at `at`, which moves behind it; 0xfffd for what is no UTF-8.
char32_t Next(std::string_view text, size_t& at) {
  const auto byte = [&text](size_t i) {
    return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0};
  };
  const uint8_t first = byte(at);
  const int length = first < 0x80             ? 1
                     : (first & 0xe0) == 0xc0 ? 2
                     : (first & 0xf0) == 0xe0 ? 3
                     : (first & 0xf8) == 0xf0 ? 4
                                              : 0;
  if (length == 1) return text[at++];
  if (length == 0) {
    ++at;
    return 0xfffd;
  }
  char32_t point = first & (0x7f >> length);
  for (int i = 1; i < length; ++i) {
    const uint8_t next = byte(at + i);
    if ((next & 0xc0) != 0x80) {
      at += i;
      return 0xfffd;
    }
    point = (point << 6) | (next & 0x3f);
  }
  at += length;
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = point >= 0xd800 && point <= 0xdfff;
  return point < kSmallest[length] || point > 0x10ffff || is_surrogate ? 0xfffd : point;
}

bool IsBetween(char32_t point, char32_t low, char32_t high) {
  return point >= low && point <= high;
}

bool IsUnprintable(char32_t p) {
  return p < 0x20 || IsBetween(p, 0x7f, 0x9f) || IsBetween(p, 0x200b, 0x200f) ||
         IsBetween(p, 0x2028, 0x202e) || IsBetween(p, 0x2060, 0x206f) || p == 0xfeff || p == 0xfffd;
}

// East Asian wide characters and emoji take two columns, combining marks none.
int ColumnsOf(char32_t p) {
  if (IsBetween(p, 0x300, 0x36f) || IsBetween(p, 0xfe00, 0xfe0f)) return 0;
  const bool is_wide = IsBetween(p, 0x1100, 0x115f) || IsBetween(p, 0x2e80, 0xa4cf) ||
                       IsBetween(p, 0xac00, 0xd7a3) || IsBetween(p, 0xf900, 0xfaff) ||
                       IsBetween(p, 0xfe30, 0xfe6f) || IsBetween(p, 0xff00, 0xff60) ||
                       IsBetween(p, 0xffe0, 0xffe6) || IsBetween(p, 0x1f300, 0x1faff) ||
                       IsBetween(p, 0x20000, 0x3fffd);
  return is_wide ? 2 : 1;
}

// As much of clean text from its begin as fits into `width` columns.
std::string_view Prefix(std::string_view text, int width) {
  size_t at = 0;
  while (at < text.size()) {
    size_t next = at;
    width -= ColumnsOf(Next(text, next));
    if (width < 0) break;
    at = next;
  }
  return text.substr(0, at);
}

std::string Cut(std::string_view text, int width) {
  if (WidthOf(text) <= width) return std::string(text);
  return std::string(Prefix(text, std::max(0, width - 1))) + (width > 0 ? "~" : "");
}

std::string Spaces(int count) { return std::string(static_cast<size_t>(std::max(0, count)), ' '); }

bool IsNumber(std::string_view cell) {
  return !cell.empty() && cell.find_first_of("0123456789") != std::string_view::npos &&
         cell.find_first_not_of("0123456789.,+-%eExXNA/ ") == std::string_view::npos;
}

// The words of a shell command, quotes and what they hold kept together.
std::vector<std::string> WordsOf(std::string_view command) {
  std::vector<std::string> words(1);
  char quote = 0;
  for (size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    if (c == ' ' && quote == 0) {
      if (!words.back().empty()) words.emplace_back();
      continue;
    }
    words.back() += c;
    if (c == '\\' && quote != '\'' && i + 1 < command.size()) {
      words.back() += command[++i];
    } else if (quote == 0 && (c == '\'' || c == '"')) {
      quote = c;
    } else if (c == quote) {
      quote = 0;
    }
  }
  return words;
}

}  // namespace

std::string Clean(std::string_view text) {
  std::string clean;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t point = Next(text, at);
    if (point == '\n' || point == '\r' || point == '\t') {
      clean += ' ';
    } else if (IsUnprintable(point)) {
      clean += '?';
    } else {
      clean += text.substr(begin, at - begin);
    }
  }
  return clean;
}

int WidthOf(std::string_view text) {
  int width = 0;
  for (size_t at = 0; at < text.size();) width += ColumnsOf(Next(text, at));
  return width;
}

std::string FitLeft(std::string_view text, int width) {
  const std::string cut = Cut(Clean(text), width);
  return cut + Spaces(width - WidthOf(cut));
}

std::string FitRight(std::string_view text, int width) {
  const std::string cut = Cut(Clean(text), width);
  return Spaces(width - WidthOf(cut)) + cut;
}

std::string Wrap(std::string_view text, int width, std::string_view head) {
  const std::string clean = Clean(text);
  const std::string indent = Spaces(WidthOf(head));
  const int room = std::max(8, width - WidthOf(head));
  std::string lines(head);
  std::string_view rest = clean;
  while (WidthOf(rest) > room) {
    const std::string_view fits = Prefix(rest, room + 1);  // a space may be the one too many
    size_t end = fits.rfind(' ');
    // A number and its % stay together.
    if (end != std::string_view::npos && rest.substr(end, 2) == " %")
      end = fits.rfind(' ', end - 1);
    if (end == std::string_view::npos || end == 0) end = Prefix(rest, room).size();
    lines += rest.substr(0, end);
    lines += '\n';
    lines += indent;
    rest.remove_prefix(end);
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  }
  lines += rest;
  lines += '\n';
  return lines;
}

std::string WrapCommand(std::string_view command, int width, std::string_view head) {
  constexpr int kTail = 2;  // " \\"
  const std::string indent = Spaces(WidthOf(head) + 2);
  std::string lines(head);
  int used = WidthOf(head);
  bool is_first = true;
  for (const std::string& word : WordsOf(Clean(command))) {
    const int columns = WidthOf(word);
    if (!is_first && used + 1 + columns + kTail > width) {
      lines += " \\\n" + indent;
      used = WidthOf(indent);
    } else if (!is_first) {
      lines += ' ';
      ++used;
    }
    lines += word;
    used += columns;
    is_first = false;
  }
  return lines + "\n";
}

std::string FormatTable(const Table& table, int width) {
  const size_t columns = table.columns.size();
  if (columns == 0) return "";
  const auto cell = [](const std::vector<std::string>& row, size_t i) {
    return i < row.size() ? std::string_view(row[i]) : std::string_view();
  };
  std::vector<int> widths(columns);
  std::vector<bool> is_number(columns, true);
  for (size_t i = 0; i < columns; ++i) {
    widths[i] = WidthOf(Clean(table.columns[i]));
    for (const auto& row : table.rows) {
      widths[i] = std::max(widths[i], WidthOf(Clean(cell(row, i))));
      is_number[i] = is_number[i] && (cell(row, i).empty() || IsNumber(cell(row, i)));
    }
  }
  constexpr int kGap = 2;
  const auto total = [&widths] {
    int sum = -kGap;
    for (const int w : widths) sum += w + kGap;
    return sum;
  };
  while (total() > width) {
    const auto widest = std::max_element(widths.begin(), widths.end());
    if (*widest <= 1) break;  // more columns than a line has room for
    --*widest;
  }
  const auto line = [&](const std::vector<std::string>& row) {
    std::string text;
    for (size_t i = 0; i < columns; ++i) {
      if (i > 0) text += Spaces(kGap);
      text += is_number[i] ? FitRight(cell(row, i), widths[i]) : FitLeft(cell(row, i), widths[i]);
    }
    text = std::string(Prefix(text, width));
    text.erase(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  std::string text = line(table.columns);
  text += std::string(static_cast<size_t>(std::min(total(), width)), '-') + "\n";
  for (const auto& row : table.rows) text += line(row);
  return text;
}

}  // namespace gradwire::analysis
