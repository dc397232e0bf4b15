// Small reads of the kernel's file systems and of the system's files, shared by the probes.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace gradwire::cli {

// First line of a file, empty when there is none.
std::string FirstLine(const std::string& path);

// Entries of a folder by name; none when it cannot be read.
std::vector<std::string> Entries(const std::string& folder);

bool Exists(const std::string& path);

// Lines of a file, which may be compressed by gzip; none when it cannot be read.
std::vector<std::string> Lines(const std::string& path);

// NAME=value lines without quotes, as in os-release and a kernel's configuration.
std::map<std::string, std::string> Assignments(const std::string& path);

}  // namespace gradwire::cli
