#include "passes/merge/channel_maps.h"

namespace onnxfold {
namespace {

int last_axis(const Value& value) { return value.rank().value_or(0) - 1; }

}  // namespace

ChannelMaps::ChannelMaps(const AxisGroups& groups) {
  for (std::size_t g = 0; g < groups.groups.size(); ++g) {
    for (const AxisPlace& place : groups.groups[g].constants) places_[place.value].push_back({place.axis, g});
    for (const AxisPlace& place : groups.groups[g].values) places_[place.value].push_back({place.axis, g});
  }
}

const std::vector<ChannelPlace>& ChannelMaps::places(const Value* value) const {
  static const std::vector<ChannelPlace> kNone;
  const auto found = places_.find(value);
  return found == places_.end() ? kNone : found->second;
}

TransportMap ChannelMaps::at(const Value* value, int axis) const {
  const auto found = maps_.find({value, axis});
  return found == maps_.end() ? TransportMap() : found->second;
}

TransportMap ChannelMaps::at_last_axis(const Value* value) const { return at(value, last_axis(*value)); }

void ChannelMaps::set(const Value* value, int axis, TransportMap map) { maps_[{value, axis}] = std::move(map); }

void ChannelMaps::set_last_axis(const Value* value, TransportMap map) { set(value, last_axis(*value), std::move(map)); }

}  // namespace onnxfold
