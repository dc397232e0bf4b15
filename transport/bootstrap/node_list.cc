#include <arpa/inet.h>

#include <algorithm>
#include <cctype>

#include "transport/bootstrap/launcher.h"
#include "transport/bootstrap/limits_internal.h"

namespace gradwire {
namespace {

constexpr size_t kMaxExpanded = 65536;
constexpr size_t kMaxListBytes = 1 << 20;
constexpr size_t kMaxHostBytes = 253;  // RFC 1035's limit for a name
constexpr size_t kMaxDigits = 9;       // a number that fits into int

bool IsNameCharacter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' || c == '_';
}

// Up to kMaxDigits decimal digits.
absl::StatusOr<int> ParseDigits(std::string_view text, std::string_view list) {
  if (text.empty() || text.size() > kMaxDigits ||
      !std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    return InvalidArgument("'{}': '{}' is not a number of at most {} digits", list, text,
                           kMaxDigits);
  }
  int value = 0;
  for (const char c : text) value = 10 * value + (c - '0');
  return value;
}

absl::Status TooMany(std::string_view list) {
  return InvalidArgument("'{}' expands to more than {} entries", list, kMaxExpanded);
}

// "01-04,07" -> 01 02 03 04 07. Numbers are padded to the width of the range's first one.
absl::StatusOr<std::vector<std::string>> ExpandRanges(std::string_view ranges,
                                                      std::string_view list) {
  std::vector<std::string> numbers;
  while (true) {
    const std::string_view range = ranges.substr(0, ranges.find(','));
    const size_t dash = range.find('-');
    const std::string_view low = range.substr(0, dash);
    const std::string_view high = dash == std::string_view::npos ? low : range.substr(dash + 1);
    GW_ASSIGN_OR_RETURN(const int first, ParseDigits(low, list));
    GW_ASSIGN_OR_RETURN(const int last, ParseDigits(high, list));
    if (last < first) return InvalidArgument("'{}': the range {} runs backwards", list, range);
    if (static_cast<size_t>(last - first) >= kMaxExpanded - numbers.size()) return TooMany(list);
    for (int value = first; value <= last; ++value) {
      numbers.push_back(fmt::format("{:0{}}", value, low.size()));
    }
    if (range.size() == ranges.size()) return numbers;
    ranges.remove_prefix(range.size() + 1);
  }
}

// One comma-separated entry, with any number of bracketed parts; the leftmost varies slowest.
absl::StatusOr<std::vector<std::string>> ExpandNode(std::string_view node, std::string_view list) {
  std::vector<std::string> names{""};
  while (!node.empty()) {
    std::vector<std::string> parts;
    if (node.front() == '[') {
      const size_t close = node.find(']');
      GW_ASSIGN_OR_RETURN(parts, ExpandRanges(node.substr(1, close - 1), list));
      node.remove_prefix(close + 1);
    } else {
      const size_t plain = std::min(node.find('['), node.size());
      const std::string_view text = node.substr(0, plain);
      const auto odd = std::find_if_not(text.begin(), text.end(), IsNameCharacter);
      if (odd != text.end()) {
        return InvalidArgument("'{}': '{}' does not belong in a node's name", list, *odd);
      }
      parts.emplace_back(text);
      node.remove_prefix(plain);
    }
    if (parts.size() > kMaxExpanded / names.size()) return TooMany(list);
    std::vector<std::string> longer;
    longer.reserve(names.size() * parts.size());
    for (const std::string& name : names) {
      for (const std::string& part : parts) {
        longer.push_back(name + part);
        if (longer.back().size() > kMaxHostBytes) {
          return InvalidArgument("'{}': a node's name exceeds {} bytes", list.substr(0, 64),
                                 kMaxHostBytes);
        }
      }
    }
    names = std::move(longer);
  }
  return names;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ExpandNodeList(std::string_view list) {
  if (list.size() > kMaxListBytes) {
    return InvalidArgument("a node list of {} bytes exceeds {}", list.size(), kMaxListBytes);
  }
  std::vector<std::string> names;
  size_t start = 0;
  bool inside = false;  // of brackets
  for (size_t i = 0; i <= list.size(); ++i) {
    if (i < list.size() && list[i] == '[') {
      if (inside) return InvalidArgument("'{}': a bracket within brackets", list);
      inside = true;
    } else if (i < list.size() && list[i] == ']') {
      if (!inside) return InvalidArgument("'{}': a ] without its [", list);
      inside = false;
    } else if (i == list.size() || (list[i] == ',' && !inside)) {
      if (inside) return InvalidArgument("'{}': a [ without its ]", list);
      if (i == start) return InvalidArgument("'{}': an empty entry", list);
      GW_ASSIGN_OR_RETURN(std::vector<std::string> more,
                          ExpandNode(list.substr(start, i - start), list));
      if (more.size() > kMaxExpanded - names.size()) return TooMany(list);
      std::move(more.begin(), more.end(), std::back_inserter(names));
      start = i + 1;
    }
  }
  return names;
}

absl::StatusOr<std::vector<int>> ExpandTasksPerNode(std::string_view list) {
  if (list.size() > kMaxListBytes) {
    return InvalidArgument("a list of tasks of {} bytes exceeds {}", list.size(), kMaxListBytes);
  }
  std::vector<int> tasks;
  std::string_view rest = list;
  while (true) {
    std::string_view entry = rest.substr(0, rest.find(','));
    const size_t consumed = entry.size();
    int times = 1;
    if (const size_t open = entry.find("(x"); open != std::string_view::npos) {
      if (entry.back() != ')') return InvalidArgument("'{}': a (x without its )", list);
      GW_ASSIGN_OR_RETURN(times,
                          ParseDigits(entry.substr(open + 2, entry.size() - open - 3), list));
      entry = entry.substr(0, open);
    }
    GW_ASSIGN_OR_RETURN(const int count, ParseDigits(entry, list));
    if (times < 1) return InvalidArgument("'{}': a repetition of zero", list);
    if (static_cast<size_t>(times) > kMaxExpanded - tasks.size()) return TooMany(list);
    tasks.insert(tasks.end(), static_cast<size_t>(times), count);
    if (consumed == rest.size()) return tasks;
    rest.remove_prefix(consumed + 1);
  }
}

absl::StatusOr<std::pair<std::string, int>> ParseHostPort(std::string_view text) {
  const std::string shown = internal::OneLine(text, kMaxHostBytes);
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon + 1 == text.size()) {
    return InvalidArgument("'{}' names no port; write host:port or [IPv6]:port", shown);
  }
  const absl::StatusOr<int> port = ParseDigits(text.substr(colon + 1), shown);
  if (!port.ok() || *port < 1 || *port > 65535) {
    return InvalidArgument("'{}': the port must be a number in 1..65535", shown);
  }
  std::string host(text.substr(0, colon));
  if (!host.empty() && host.front() == '[') {
    if (host.back() != ']') return InvalidArgument("'{}': a [ without its ]", shown);
    host = host.substr(1, host.size() - 2);
    in6_addr address{};
    if (inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &address) != 1) {
      return InvalidArgument("'{}': '{}' is not an IPv6 address", shown, internal::OneLine(host));
    }
  } else if (host.find(':') != std::string::npos) {
    return InvalidArgument("'{}': write an IPv6 address in brackets, [address]:port", shown);
  } else if (host.empty() || host.size() > kMaxHostBytes ||
             !std::all_of(host.begin(), host.end(), IsNameCharacter)) {
    return InvalidArgument("'{}': '{}' is not a host's name or address", shown,
                           internal::OneLine(host, kMaxHostBytes));
  }
  return std::pair(std::move(host), *port);
}

}  // namespace gradwire
