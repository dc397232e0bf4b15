#include "cli/usage.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string_view>
#include <utility>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::cli {
namespace {

constexpr size_t kFarthest = 2;  // edits between a word and what it may have meant

// Edits (insert, delete, replace) that turn `a` into `b`: Levenshtein's distance by rows.
size_t Edits(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, diagonal + 1, replaced});
    }
  }
  return row.back();
}

// "; did you mean 'NAME'?", or nothing.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& names) {
  std::string closest;
  size_t fewest = kFarthest + 1;
  for (const std::string& name : names) {
    const size_t edits = Edits(word, name);
    if (edits >= fewest) continue;
    fewest = edits;
    closest = name;
  }
  return closest.empty() ? "" : fmt::format("; did you mean '{}'?", closest);
}

std::string Noun(const CLI::App& app) {
  return app.get_name() == "bench" ? "measurement" : "subcommand";
}

// The subcommand whose flags were read last.
const CLI::App& LastOf(const CLI::App& root) {
  const CLI::App* app = &root;
  while (!app->get_subcommands().empty()) app = app->get_subcommands().back();
  return *app;
}

// Its words behind "gradwire".
std::string WordsOf(const CLI::App& root) {
  std::string words;
  for (const CLI::App* app = &root; !app->get_subcommands().empty();) {
    app = app->get_subcommands().back();
    words += (words.empty() ? "" : " ") + app->get_name();
  }
  return words;
}

// Of arguments that were left over, the one that is to blame: what follows an unknown flag is
// probably its value.
std::string ExplainSurplus(const CLI::App& app, const CLI::App& root) {
  std::vector<std::string> words = app.remaining();
  if (words.empty()) words = root.remaining(/*recurse=*/true);
  const auto flag =
      std::ranges::find_if(words, [](const std::string& word) { return word.starts_with('-'); });
  if (flag == words.end()) {
    return words.empty() ? "an argument too many" : fmt::format("'{}' is too many", words[0]);
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  const std::string name = flag->substr(0, flag->find('='));
  return fmt::format("there is no flag {}{}", name, DidYouMean(name, known));
}

bool Cut(std::string_view& text, std::string_view front) {
  if (!text.starts_with(front)) return false;
  text.remove_prefix(front.size());
  return true;
}

}  // namespace

Misuse CheckSubcommands(const CLI::App& root, const std::vector<std::string>& arguments) {
  const CLI::App* app = &root;
  Misuse misuse;
  for (size_t at = 0;; ++at) {
    const std::vector<const CLI::App*> subcommands = app->get_subcommands({});
    if (subcommands.empty()) return {};
    std::vector<std::string> names;
    std::string all;
    for (const CLI::App* subcommand : subcommands) {
      names.push_back(subcommand->get_name());
      all += (all.empty() ? "" : ", ") + subcommand->get_name();
    }
    const std::string of = at == 0 ? "" : app->get_name() + ": ";
    if (at == arguments.size()) {
      misuse.message = fmt::format("{}a {} is missing: {}", of, Noun(*app), all);
      return misuse;
    }
    const std::string& word = arguments[at];
    if (word.starts_with('-')) return {};
    const auto found = std::ranges::find_if(
        subcommands, [&](const CLI::App* subcommand) { return subcommand->check_name(word); });
    if (found == subcommands.end()) {
      const std::string meant = DidYouMean(word, names);
      misuse.message = fmt::format("{}no {} '{}'{}{}{}", of, Noun(*app), word, meant,
                                   meant.empty() ? "; there are " : " There are ", all);
      return misuse;
    }
    app = *found;
    misuse.command += (at == 0 ? "" : " ") + app->get_name();
  }
}

Misuse Explain(const CLI::ParseError& error, const CLI::App& root) {
  const std::string raw = error.what();
  std::string_view text = raw;
  Misuse misuse{raw, WordsOf(root)};
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    misuse.message = ExplainSurplus(LastOf(root), root);
  } else if (Cut(text, "Could not convert: ")) {
    const size_t equals = std::min(text.find(" = "), text.size());
    misuse.message = fmt::format("{}: '{}' is not a number that it takes", text.substr(0, equals),
                                 text.substr(std::min(equals + 3, text.size())));
  } else if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr &&
             text.ends_with(" missing")) {
    misuse.message = fmt::format("{}: its value is missing", text.substr(0, text.find(':')));
  }
  std::ranges::replace(misuse.message, '\n', ' ');
  return misuse;
}

CLI::Validator Between(int64_t low, int64_t high) {
  const std::string range = fmt::format("{}..{}", low, high);
  return CLI::Validator(
      [low, high, range](const std::string& text) -> std::string {
        const absl::StatusOr<int64_t> number = ParseInt(text);
        if (!number.ok()) return Message(number.status());
        return *number >= low && *number <= high ? ""
                                                 : fmt::format("{} is outside {}", text, range);
      },
      range);
}

CLI::Validator Unsigned() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        uint64_t number = 0;
        if (!text.starts_with('-')) {
          return CLI::detail::lexical_cast(text, number)
                     ? ""
                     : fmt::format("'{}' is not a whole number", text);
        }
        return fmt::format("{} is outside 0..{}", text, std::numeric_limits<uint64_t>::max());
      },
      "UINT");
}

}  // namespace gradwire::cli
