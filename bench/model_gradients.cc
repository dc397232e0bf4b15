#include "bench/model_gradients.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <utility>

namespace gradwire::bench {
namespace {

// Parameters in the order of a forward pass.
class Builder {
 public:
  void Add(std::string name, std::vector<int64_t> shape) {
    gradients_.push_back({std::move(name), std::move(shape)});
  }
  // Weight and bias with as many outputs.
  void Dense(const std::string& name, int64_t in, int64_t out) {
    Add(name + ".weight", {out, in});
    Add(name + ".bias", {out});
  }
  // Batch and layer normalization: scale and offset.
  void Norm(const std::string& name, int64_t features) {
    Add(name + ".weight", {features});
    Add(name + ".bias", {features});
  }
  // A convolution has no bias where a normalization follows.
  void Convolution(const std::string& name, const std::string& norm, int64_t in, int64_t out,
                   int64_t kernel) {
    Add(name + ".weight", {out, in, kernel, kernel});
    Norm(norm, out);
  }
  std::vector<Gradient> Backward() && {
    std::reverse(gradients_.begin(), gradients_.end());
    return std::move(gradients_);
  }

 private:
  std::vector<Gradient> gradients_;
};

// He, Zhang, Ren and Sun, 2015: stages of bottlenecks (1x1, 3x3, 1x1), 1000 classes.
std::vector<Gradient> ResNet50() {
  constexpr std::array<int, 4> kBlocks = {3, 4, 6, 3};
  constexpr int64_t kExpansion = 4;
  Builder model;
  model.Convolution("conv1", "bn1", 3, 64, 7);
  int64_t in = 64;
  int64_t width = 64;
  for (size_t stage = 0; stage < kBlocks.size(); ++stage, width *= 2) {
    for (int block = 0; block < kBlocks[stage]; ++block) {
      const std::string name = fmt::format("layer{}.{}", stage + 1, block);
      const int64_t out = width * kExpansion;
      model.Convolution(name + ".conv1", name + ".bn1", in, width, 1);
      model.Convolution(name + ".conv2", name + ".bn2", width, width, 3);
      model.Convolution(name + ".conv3", name + ".bn3", width, out, 1);
      // The shortcut of a stage's first block changes the number of channels.
      if (block == 0) model.Convolution(name + ".downsample.0", name + ".downsample.1", in, out, 1);
      in = out;
    }
  }
  model.Dense("fc", in, 1000);
  return std::move(model).Backward();
}

// Devlin, Chang, Lee and Toutanova, 2018: uncased, with pooler.
std::vector<Gradient> BertBase() {
  constexpr int64_t kHidden = 768;
  constexpr int64_t kInner = 4 * kHidden;
  Builder model;
  model.Add("embeddings.word_embeddings.weight", {30522, kHidden});
  model.Add("embeddings.position_embeddings.weight", {512, kHidden});
  model.Add("embeddings.token_type_embeddings.weight", {2, kHidden});
  model.Norm("embeddings.LayerNorm", kHidden);
  for (int layer = 0; layer < 12; ++layer) {
    const std::string name = fmt::format("encoder.layer.{}", layer);
    for (const char* part : {"query", "key", "value"}) {
      model.Dense(fmt::format("{}.attention.self.{}", name, part), kHidden, kHidden);
    }
    model.Dense(name + ".attention.output.dense", kHidden, kHidden);
    model.Norm(name + ".attention.output.LayerNorm", kHidden);
    model.Dense(name + ".intermediate.dense", kHidden, kInner);
    model.Dense(name + ".output.dense", kInner, kHidden);
    model.Norm(name + ".output.LayerNorm", kHidden);
  }
  model.Dense("pooler.dense", kHidden, kHidden);
  return std::move(model).Backward();
}

// Radford et al., 2019: the smallest; its output layer shares the weights of the embedding.
std::vector<Gradient> Gpt2() {
  constexpr int64_t kHidden = 768;
  constexpr int64_t kInner = 4 * kHidden;
  Builder model;
  model.Add("wte.weight", {50257, kHidden});
  model.Add("wpe.weight", {1024, kHidden});
  for (int layer = 0; layer < 12; ++layer) {
    const std::string name = fmt::format("h.{}", layer);
    model.Norm(name + ".ln_1", kHidden);
    model.Dense(name + ".attn.c_attn", kHidden, 3 * kHidden);
    model.Dense(name + ".attn.c_proj", kHidden, kHidden);
    model.Norm(name + ".ln_2", kHidden);
    model.Dense(name + ".mlp.c_fc", kHidden, kInner);
    model.Dense(name + ".mlp.c_proj", kInner, kHidden);
  }
  model.Norm("ln_f", kHidden);
  return std::move(model).Backward();
}

constexpr std::array<std::string_view, 3> kNames = {"resnet50", "bert-base", "gpt2"};

}  // namespace

int64_t Gradient::size() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::span<const std::string_view> ModelNames() { return kNames; }

absl::StatusOr<std::vector<Gradient>> MakeModelGradients(std::string_view model) {
  if (model == "resnet50") return ResNet50();
  if (model == "bert-base") return BertBase();
  if (model == "gpt2") return Gpt2();
  return InvalidArgument("--model {} is not known; there are {}", model, fmt::join(kNames, ", "));
}

}  // namespace gradwire::bench
