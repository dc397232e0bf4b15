// The page of a report with its style, scripts and d3, put together when the library is built from
// report.html beside this file. {{title}} and {{data}} are left to be filled in.
#pragma once

#include <string_view>

namespace gradwire::analysis {

extern const std::string_view kPage;

}  // namespace gradwire::analysis
