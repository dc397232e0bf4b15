// The gradient tensors of well-known models, so that what their training sends can be replayed
// without a framework. Derived from the architecture: layers and dimensions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/status.h"

namespace gradwire::bench {

// One parameter's gradient, float32.
struct Gradient {
  std::string name;            // "layer1.0.conv1.weight"
  std::vector<int64_t> shape;  // as PyTorch has it
  int64_t size() const;        // elements
};

// Names of the models that MakeModelGradients knows: resnet50, bert-base, gpt2.
std::span<const std::string_view> ModelNames();

// In the order in which a backward pass finishes them: the reverse of the forward pass's.
// InvalidArgument for a name that is not known.
absl::StatusOr<std::vector<Gradient>> MakeModelGradients(std::string_view model);

}  // namespace gradwire::bench
