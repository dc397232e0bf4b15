#include "transport/urxe/verbs/system.h"

#include <dlfcn.h>

namespace urxe {

void* SystemSymbol(const char* name) {
  // Searched in the library's own scope, so that it is never this library's function that is found.
  // Of a symbol's versions dlsym takes the default one, as a program linked today would.
  static void* const library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  return library == nullptr ? nullptr : dlsym(library, name);
}

}  // namespace urxe
