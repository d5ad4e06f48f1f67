// Where the anchor's graph has axes of channels, and which transport map acts on each of them so far.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "analysis/structure/axis_groups.h"
#include "passes/merge/transport_maps.h"

namespace onnxfold {

struct ChannelPlace {
  int axis;
  std::size_t group;  // axes of one group have the same neurons
};

class ChannelMaps {
 public:
  ChannelMaps() = default;
  explicit ChannelMaps(const AxisGroups& groups);

  // Axes of a value (or constant) that are channels.
  const std::vector<ChannelPlace>& places(const Value* value) const;

  // Null where no map has come to: every neuron stays.
  TransportMap at(const Value* value, int axis) const;
  TransportMap at_last_axis(const Value* value) const;
  void set(const Value* value, int axis, TransportMap map);
  void set_last_axis(const Value* value, TransportMap map);

 private:
  std::map<const Value*, std::vector<ChannelPlace>> places_;
  std::map<std::pair<const Value*, int>, TransportMap> maps_;
};

}  // namespace onnxfold
