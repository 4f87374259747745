#include "stream.h"

#include <utility>

#include "forward_pass.h"

namespace fusedrnn {

template <class T>
Stream<T>::Stream(const Weights<T>& weights, Index batch)
    : weights_(&weights),
      model_(weights.model()),
      kernels_(weights.kernels()),
      batch_(batch),
      sizes_(kernels_.sizes(model_.widths(0))),
      schedule_(model_, problem(steps_), sizes_) {
  for (auto& state : states_)
    for (int s = 0; s < model_.spec().states; ++s)
      state[s] = state_memory_.take_zeroed<T>(state_size(s));
  reserve(steps_);
}

template <class T>
void Stream<T>::reserve(Index steps) {
  auto memory = std::make_unique<Scratch>(true);
  const Problem all = problem(steps);
  const Frame<T> frame{*weights_, all, Use::inference};
  const auto [h_0, c_0] = states_[0];
  const auto [h_n, c_n] = states_[1];
  auto there = arrange_forward<T>(frame, {nullptr, h_0, c_0, nullptr, h_n, c_n}, nullptr, *memory);
  auto back = there;
  for (int i = 0; i < model_.count(); ++i) {
    LayerForward<T>& layer = back[i];
    layer.h_0 = frame.state_of(h_n, 0, i);
    layer.c_0 = frame.state_of(c_n, 1, i);
    layer.h_n = frame.state_of(h_0, 0, i);
    layer.c_n = frame.state_of(c_0, 1, i);
  }
  layers_[0] = std::move(there);
  layers_[1] = std::move(back);
  memory_ = std::move(memory);
  capacity_ = steps;
}

template <class T>
void Stream<T>::use(const Weights<T>& weights) {
  weights_ = &weights;
  for (auto& layers : layers_)
    for (int i = 0; i < model_.count(); ++i) layers[i].panels = weights.forward_panels(i);
}

template <class T>
void Stream<T>::prepare(Index steps) {
  if (steps == steps_) return schedule_.follow_num_threads();
  if (steps > capacity_) reserve(steps);
  schedule_ = Schedule(model_, problem(steps), sizes_);
  steps_ = steps;
}

template <class T>
void Stream<T>::run(const T* x, T* y) {
  std::vector<LayerForward<T>>& layers = layers_[now_];
  layers.front().x.data = x;
  layers.back().y.data = y;
  const auto run_layer = [&](int l, int, Range steps, Team team, bool split_units) {
    LayerForward<T> layer = layers[l];
    layer.steps = steps_;
    layer.split_units = split_units;
    if (steps.size() < steps_) restrict_to(layer, steps, sizes_);
    kernels_.forward(layer, team);
  };
  const auto items = [&](int l, Range steps, const Sharing& sharing) {
    run_groups(sharing, steps,
               [&](Range some, Team group) { run_layer(l, 0, some, group, false); });
  };
  schedule_.run(Order::forward, steps_, run_layer, [](int, Range, Team) {}, items);
  now_ = 1 - now_;
}

template class Stream<float>;
template class Stream<double>;

}  // namespace fusedrnn
