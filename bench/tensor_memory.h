// Memory for the tensors that are measured: ordinary, or from the library's allocator.
#pragma once

#include <cstddef>
#include <memory>

#include "collectives/communicator.h"
#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire::bench {

class TensorMemory {
 public:
  // On a page, and never empty, so that every tensor has a place. `registered`: from
  // Communicator::Allocate. ResourceExhausted when there is no memory.
  static absl::StatusOr<TensorMemory> Make(Communicator& communicator, size_t bytes,
                                           bool registered);
  std::byte* data() const { return data_; }

 private:
  struct FreePages {
    void operator()(std::byte* pages) const;
  };
  Region region_;
  std::unique_ptr<std::byte[], FreePages> pages_;
  std::byte* data_ = nullptr;
};

}  // namespace gradwire::bench
