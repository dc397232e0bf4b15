#include "parameter_server/protocol.h"

#include <algorithm>
#include <cstring>

namespace gradwire::ps {

void Reply::SetError(const absl::Status& status) {
  code = static_cast<int32_t>(status.code());
  const std::string message = Message(status);
  std::memset(text, 0, sizeof(text));
  std::memcpy(text, message.data(), std::min(message.size(), sizeof(text)));
}

absl::Status Reply::status() const {
  if (code == 0) return absl::OkStatus();
  // The text is the peer's: what is not printable does not reach a terminal.
  std::string message(text, strnlen(text, sizeof(text)));
  for (char& c : message) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  const bool known = code >= static_cast<int32_t>(absl::StatusCode::kCancelled) &&
                     code <= static_cast<int32_t>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                      message);
}

}  // namespace gradwire::ps
