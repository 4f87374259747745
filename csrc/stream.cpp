#include "stream.h"

#include "forward_pass.h"

namespace fusedrnn {

template <class T>
Stream<T>::Stream(const Weights<T>& weights, Index batch)
    : model_(weights.model()),
      kernels_(weights.kernels()),
      batch_(batch),
      schedule_(model_, problem(batch), kernels_.sizes(model_.widths(0))) {
  for (auto& state : states_)
    for (int s = 0; s < model_.spec().states; ++s) state[s] = memory_.take_zeroed<T>(state_size(s));
  const Problem one_step = problem(batch);
  const Frame<T> frame{weights, one_step, Use::inference};
  const auto [h_0, c_0] = states_[0];
  const auto [h_n, c_n] = states_[1];
  layers_[0] = arrange_forward<T>(frame, {nullptr, h_0, c_0, nullptr, h_n, c_n}, nullptr, memory_);
  layers_[1] = layers_[0];
  for (int i = 0; i < model_.count(); ++i) {
    LayerForward<T>& layer = layers_[1][i];
    layer.h_0 = frame.state_of(h_n, 0, i);
    layer.c_0 = frame.state_of(c_n, 1, i);
    layer.h_n = frame.state_of(h_0, 0, i);
    layer.c_n = frame.state_of(c_0, 1, i);
  }
}

template <class T>
void Stream<T>::use(const Weights<T>& weights) {
  for (auto& layers : layers_)
    for (int i = 0; i < model_.count(); ++i) layers[i].panels = weights.forward_panels(i);
}

template <class T>
void Stream<T>::step(const T* x, T* y) {
  std::vector<LayerForward<T>>& layers = layers_[now_];
  layers.front().x.data = x;
  layers.back().y.data = y;
  schedule_.follow_num_threads();
  const auto run_layer = [&](int l, int, Range, Team team, bool split_units) {
    LayerForward<T> layer = layers[l];
    layer.split_units = split_units;
    kernels_.forward(layer, team);
  };
  schedule_.run(Order::forward, 1, run_layer, [](int, Range, Team) {});
  now_ = 1 - now_;
}

template class Stream<float>;
template class Stream<double>;

}  // namespace fusedrnn
