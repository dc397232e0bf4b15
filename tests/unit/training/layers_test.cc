// Every gradient against central differences in double.
#include "examples/training/layers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "examples/training/model.h"
#include "examples/training/random.h"

namespace gradwire::training {
namespace {

using MatrixD = Matrix<double>;

MatrixD RandomMatrix(int64_t rows, int64_t columns, uint64_t seed) {
  Random random(seed);
  return MatrixD::NullaryExpr(rows, columns, [&](auto, auto) { return random.Normal(); });
}

// A layer with memory for its parameters.
struct Bound {
  explicit Bound(Layer<double>& bound) : layer(bound) {
    uint64_t seed = 100;
    for (Parameter<double>* parameter : layer.parameters()) {
      values.push_back(std::make_unique<MatrixD>(RandomMatrix(parameter->size, 1, ++seed)));
      gradients.push_back(std::make_unique<MatrixD>(MatrixD::Zero(parameter->size, 1)));
      parameter->value = values.back()->data();
      parameter->gradient = gradients.back()->data();
    }
  }
  Layer<double>& layer;
  std::vector<std::unique_ptr<MatrixD>> values;
  std::vector<std::unique_ptr<MatrixD>> gradients;
};

// The loss sum(out * weights) makes `weights` the gradient of the output.
void CheckLayer(Layer<double>& layer, MatrixD in) {
  Bound bound(layer);
  const MatrixD weights = RandomMatrix(layer.outputs(), in.cols(), 7);
  const auto loss = [&] {
    MatrixD out;
    layer.Forward(in, out);
    EXPECT_EQ(out.rows(), layer.outputs());
    return out.cwiseProduct(weights).sum();
  };
  MatrixD out;
  MatrixD d_in;
  layer.Forward(in, out);
  layer.ComputeGradients(in, weights);
  layer.Backward(in, out, weights, d_in);

  constexpr double kStep = 1e-5;
  const auto check = [&](double& at, double analytic, const std::string& what) {
    const double saved = at;
    at = saved + kStep;
    const double above = loss();
    at = saved - kStep;
    const double below = loss();
    at = saved;
    EXPECT_NEAR(analytic, (above - below) / (2 * kStep), 1e-6) << what;
  };
  for (Eigen::Index i = 0; i < in.size(); ++i) {
    check(in.data()[i], d_in.data()[i], "input " + std::to_string(i));
  }
  for (const Parameter<double>* parameter : layer.parameters()) {
    for (int64_t i = 0; i < parameter->size; ++i) {
      check(parameter->value[i], parameter->gradient[i], parameter->name + " " + std::to_string(i));
    }
  }
}

TEST(LayersTest, DenseGradients) {
  Dense<double> dense("dense", 5, 3);
  CheckLayer(dense, RandomMatrix(5, 4, 1));
}

TEST(LayersTest, ReluGradients) {
  Relu<double> relu(6);
  CheckLayer(relu, RandomMatrix(6, 5, 2));
}

TEST(LayersTest, ConvolutionGradients) {
  for (const int64_t kernel : {1, 3, 5}) {
    Convolution<double> convolution("conv", {.channels = 2, .width = 5, .height = 4}, 3, kernel);
    CheckLayer(convolution, RandomMatrix(2 * 5 * 4, 2, 3));
  }
}

TEST(LayersTest, ConvolutionOfAnImageSmallerThanTheKernel) {
  Convolution<double> convolution("conv", {.channels = 1, .width = 1, .height = 2}, 2, 5);
  CheckLayer(convolution, RandomMatrix(2, 3, 4));
}

TEST(LayersTest, MaxPoolGradientsWithOddSides) {
  MaxPool<double> pool({.channels = 3, .width = 5, .height = 4});
  CheckLayer(pool, RandomMatrix(3 * 5 * 4, 2, 5));
}

TEST(LayersTest, MaxPoolGivesTiesToOne) {
  MaxPool<double> pool({.channels = 1, .width = 2, .height = 2});
  const MatrixD in = MatrixD::Constant(4, 1, 2.0);
  MatrixD out;
  MatrixD d_in;
  pool.Forward(in, out);
  pool.Backward(in, out, MatrixD::Constant(1, 1, 3.0), d_in);
  EXPECT_EQ(d_in, (MatrixD(4, 1) << 3, 0, 0, 0).finished());
}

// Against the definition, written without patches.
TEST(LayersTest, ConvolutionIsACrossCorrelation) {
  constexpr int64_t kChannels = 2, kWidth = 4, kHeight = 3, kFilters = 2, kKernel = 3;
  Convolution<double> convolution("conv", {kChannels, kWidth, kHeight}, kFilters, kKernel);
  const Bound bound(convolution);
  const MatrixD in = RandomMatrix(kChannels * kWidth * kHeight, 2, 6);
  MatrixD out;
  convolution.Forward(in, out);
  const double* weight = bound.values[0]->data();  // (filters, kernel, kernel, channels)
  const double* bias = bound.values[1]->data();
  for (int64_t n = 0; n < 2; ++n) {
    for (int64_t y = 0; y < kHeight; ++y) {
      for (int64_t x = 0; x < kWidth; ++x) {
        for (int64_t f = 0; f < kFilters; ++f) {
          double sum = bias[f];
          for (int64_t ky = 0; ky < kKernel; ++ky) {
            for (int64_t kx = 0; kx < kKernel; ++kx) {
              const int64_t iy = y + ky - 1, ix = x + kx - 1;
              if (iy < 0 || iy >= kHeight || ix < 0 || ix >= kWidth) continue;
              for (int64_t c = 0; c < kChannels; ++c) {
                sum += weight[((f * kKernel + ky) * kKernel + kx) * kChannels + c] *
                       in((iy * kWidth + ix) * kChannels + c, n);
              }
            }
          }
          EXPECT_NEAR(out((y * kWidth + x) * kFilters + f, n), sum, 1e-12);
        }
      }
    }
  }
}

TEST(LayersTest, LossAndItsGradient) {
  MatrixD logits = RandomMatrix(4, 3, 8);
  const std::vector<uint8_t> labels = {3, 0, 2};
  constexpr double kScale = 0.25;
  MatrixD d_logits;
  const LossResult result = SoftmaxCrossEntropy(logits, labels, kScale, &d_logits);
  double expected = 0;
  for (int n = 0; n < 3; ++n) {
    expected -= std::log(std::exp(logits(labels[n], n)) / logits.col(n).array().exp().sum());
  }
  EXPECT_NEAR(result.sum, expected, 1e-12);
  constexpr double kStep = 1e-5;
  for (Eigen::Index i = 0; i < logits.size(); ++i) {
    const double saved = logits.data()[i];
    logits.data()[i] = saved + kStep;
    const double above = SoftmaxCrossEntropy<double>(logits, labels, 0, nullptr).sum;
    logits.data()[i] = saved - kStep;
    const double below = SoftmaxCrossEntropy<double>(logits, labels, 0, nullptr).sum;
    logits.data()[i] = saved;
    EXPECT_NEAR(d_logits.data()[i], kScale * (above - below) / (2 * kStep), 1e-8);
  }
}

TEST(LayersTest, LossOfLargeLogitsIsFiniteAndNanIsSeen) {
  Matrix<float> logits = Matrix<float>::Constant(3, 1, 1e30f);
  const std::vector<uint8_t> labels = {1};
  EXPECT_NEAR(SoftmaxCrossEntropy<float>(logits, labels, 0, nullptr).sum, std::log(3.0), 1e-6);
  logits(0, 0) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(SoftmaxCrossEntropy<float>(logits, labels, 0, nullptr).sum));
  Relu<float> relu(3);
  Matrix<float> out;
  relu.Forward(logits, out);
  EXPECT_TRUE(std::isnan(out(0, 0)));
}

// Whole models: the order of layers, and which gradient is ready when.
TEST(LayersTest, ModelGradients) {
  for (const char* kind : {"mlp", "cnn"}) {
    const ModelOptions options{.kind = kind, .hidden = {6, 5}};
    auto made = MakeModel<double>(options, 5, 4, 3);
    ASSERT_TRUE(made.ok()) << made.status();
    Model<double>& model = **made;
    model.Initialize(1);
    MatrixD gradients =
        MatrixD::Constant(static_cast<Eigen::Index>(model.values().size()), 1, std::nan(""));
    for (Parameter<double>* parameter : model.parameters()) {
      parameter->gradient = gradients.data() + parameter->offset;
    }
    const MatrixD in = RandomMatrix(20, 3, 9);
    const std::vector<uint8_t> labels = {0, 2, 1};
    MatrixD d_logits;
    SoftmaxCrossEntropy(model.Forward(in), labels, 1.0, &d_logits);
    int64_t finished = 0;
    model.Backward(d_logits, [&](const Parameter<double>& parameter) {
      EXPECT_EQ(parameter.offset, finished) << parameter.name << " out of order";
      finished += parameter.size;
      EXPECT_FALSE(gradients.topRows(finished).hasNaN()) << parameter.name << " is not final";
    });
    EXPECT_EQ(finished, gradients.size());

    constexpr double kStep = 1e-6;
    for (Eigen::Index i = 0; i < gradients.size(); ++i) {
      double& value = model.values()[static_cast<size_t>(i)];
      const double saved = value;
      value = saved + kStep;
      const double above = SoftmaxCrossEntropy<double>(model.Forward(in), labels, 0, nullptr).sum;
      value = saved - kStep;
      const double below = SoftmaxCrossEntropy<double>(model.Forward(in), labels, 0, nullptr).sum;
      value = saved;
      ASSERT_NEAR(gradients(i), (above - below) / (2 * kStep), 1e-5) << kind << " parameter " << i;
    }
  }
}

TEST(LayersTest, InitialWeightsHaveTheVarianceOfHe) {
  auto model = MakeModel<float>({.kind = "mlp", .hidden = {400}}, 28, 28, 10);
  ASSERT_TRUE(model.ok());
  (*model)->Initialize(3);
  const Parameter<float>& weight = *(*model)->parameters()[0];
  const Eigen::Map<const Eigen::ArrayXf> values(weight.value, weight.size);
  EXPECT_NEAR(values.mean(), 0, 1e-3);
  EXPECT_NEAR(values.square().mean(), 2.0 / 784, 0.02 * 2.0 / 784);
  EXPECT_EQ((*model)->parameters()[1]->value[0], 0);
}

TEST(LayersTest, ImpossibleModels) {
  EXPECT_FALSE(MakeModel<float>({.kind = "rnn"}, 8, 8, 10).ok());
  EXPECT_FALSE(MakeModel<float>({.kind = "mlp", .hidden = {0}}, 8, 8, 10).ok());
  EXPECT_FALSE(MakeModel<float>({.kind = "mlp", .hidden = {1 << 20}}, 8, 8, 10).ok());
  EXPECT_FALSE(MakeModel<float>({.kind = "cnn"}, 3, 8, 10).ok());
}

}  // namespace
}  // namespace gradwire::training
