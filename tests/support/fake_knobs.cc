// What fake_verbs.h offers to tests: devices, counters, failures, held requests and events.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/support/fake_calls.h"
#include "tests/support/fake_fabric.h"
#include "tests/support/fake_verbs.h"

namespace gradwire::test {

void ResetFakeVerbs() {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().Reset();
}

void SetFakeDevices(std::vector<FakeDevice> devices) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  for (auto& device : std::exchange(fabric.devices, {})) fabric.Retire(std::move(device));
  for (FakeDevice& device : devices) {
    fabric.devices.push_back(std::make_shared<DeviceObject>(std::move(device)));
  }
}

FakeCounters GetFakeCounters() {
  const Lock lock(Fabric::Get().mutex);
  return Fabric::Get().counters;
}

void FailNext(std::string_view function, int error, int after) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().ArmFailure(std::string(function), error, after);
}

void CompleteNext(ibv_wc_status status, int after) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().ArmStatus(status, after);
}

void Hold(uint32_t qp_number) {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().held.insert(qp_number);
}

void Release() {
  const Lock lock(Fabric::Get().mutex);
  Fabric::Get().held.clear();
  Fabric::Get().DeliverAll();
}

void RaiseEvent(std::string_view device, ibv_event_type type, int port, uint32_t qp_number) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  ibv_async_event event = {};
  event.event_type = type;
  event.element.port_num = port;
  const auto queue_pair = fabric.queue_pairs.find(qp_number);
  if (queue_pair != fabric.queue_pairs.end()) {
    event.element.qp = queue_pair->second;
    fabric.Raise(*static_cast<Context*>(queue_pair->second->context), event);
    return;
  }
  for (Context* context : fabric.contexts) {
    if (context->object().description.name == device) fabric.Raise(*context, event);
  }
}

void SetPortState(std::string_view device, int port, ibv_port_state state) {
  {
    Fabric& fabric = Fabric::Get();
    const Lock lock(fabric.mutex);
    for (const auto& object : fabric.devices) {
      if (object->description.name != device) continue;
      object->description.ports.at(static_cast<size_t>(port) - 1).state = state;
    }
    fabric.DeliverAll();
  }
  RaiseEvent(device, state == IBV_PORT_ACTIVE ? IBV_EVENT_PORT_ACTIVE : IBV_EVENT_PORT_ERR, port);
}

void BreakQueuePair(uint32_t qp_number) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  const auto found = fabric.queue_pairs.find(qp_number);
  if (found != fabric.queue_pairs.end()) fabric.Break(*found->second);
}

}  // namespace gradwire::test
