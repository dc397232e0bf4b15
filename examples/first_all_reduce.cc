// The sum of one vector per rank. Run it with: gradwire launch -n 4 -- first_all_reduce
#include <fmt/core.h>

#include <Eigen/Core>

#include "collectives/communicator.h"

absl::Status Run() {
  GW_ASSIGN_OR_RETURN(const auto settings, gradwire::SettingsFromEnvironment());
  GW_ASSIGN_OR_RETURN(const auto place, gradwire::FindLaunchPlace(gradwire::ProcessEnvironment(),
                                                                  settings, /*allow_single=*/true));
  GW_ASSIGN_OR_RETURN(const auto world, gradwire::JoinWorld(place, settings));
  GW_ASSIGN_OR_RETURN(const auto communicator, gradwire::Communicator::Create(*world, settings));

  Eigen::VectorXf gradient = Eigen::VectorXf::Constant(1'000'000, world->rank() + 1.0f);
  GW_RETURN_IF_ERROR(communicator->AllReduce(gradient));

  fmt::print("rank {} of {}: each element is {}\n", world->rank(), world->size(), gradient(0));
  return world->Leave("");
}

int main() {
  const absl::Status status = Run();
  if (!status.ok()) fmt::print(stderr, "{}\n", gradwire::Message(status));
  return status.ok() ? 0 : 1;
}
