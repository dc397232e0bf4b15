#include "bench/tensor_memory.h"

#include <algorithm>
#include <new>

namespace gradwire::bench {
namespace {
constexpr size_t kPage = 4096;
}

void TensorMemory::FreePages::operator()(std::byte* pages) const {
  ::operator delete[](pages, std::align_val_t{kPage});
}

absl::StatusOr<TensorMemory> TensorMemory::Make(Communicator& communicator, size_t bytes,
                                                bool registered) {
  TensorMemory memory;
  bytes = std::max(bytes, kPage);
  if (registered) {
    GW_ASSIGN_OR_RETURN(memory.region_, communicator.Allocate(bytes));
    memory.data_ = memory.region_.bytes().data();
    return memory;
  }
  memory.pages_.reset(new (std::align_val_t{kPage}, std::nothrow) std::byte[bytes]);
  if (memory.pages_ == nullptr) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     "no memory for a tensor of {} bytes on this rank; use a smaller -e", bytes);
  }
  memory.data_ = memory.pages_.get();
  return memory;
}

}  // namespace gradwire::bench
