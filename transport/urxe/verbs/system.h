// The system's libibverbs, which serves every device that is not urxe's.
#pragma once

#include <infiniband/verbs.h>

#include <cerrno>
#include <type_traits>

// verbs.h wraps these in macros; here they are the exported functions again.
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova
#undef ibv_get_device_list

namespace urxe {

// The default version of libibverbs.so.1's function; null when the library or the function is
// missing.
void* SystemSymbol(const char* name);

// Calls it. Where it is missing: ENOSYS, or null and errno.
template <typename Result, typename... Parameters, typename... Arguments>
Result CallSystem(Result (*function)(Parameters...), Arguments... arguments) {
  if (function != nullptr) return function(arguments...);
  errno = ENOSYS;
  if constexpr (std::is_same_v<Result, int>) {
    return ENOSYS;
  } else {
    return Result();
  }
}

}  // namespace urxe

// URXE_SYSTEM(ibv_alloc_pd, context): the system's ibv_alloc_pd(context).
#define URXE_SYSTEM(function, ...)                                              \
  urxe::CallSystem([] {                                                         \
    static const auto found =                                                   \
        reinterpret_cast<decltype(&::function)>(urxe::SystemSymbol(#function)); \
    return found;                                                               \
  }() __VA_OPT__(, ) __VA_ARGS__)
