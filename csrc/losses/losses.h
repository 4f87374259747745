// Every loss, in the order of losses.def.
#pragma once

#include "cross_entropy.h"
#include "squared_error.h"

namespace fusedrnn {

inline constexpr int n_losses = 0
#define FUSEDRNN_LOSS(type, name) +1
#include "losses.def"
#undef FUSEDRNN_LOSS
    ;

inline constexpr const char* losses[] = {
#define FUSEDRNN_LOSS(type, name) name,
#include "losses.def"
#undef FUSEDRNN_LOSS
};

inline constexpr bool loss_has_classes[] = {
#define FUSEDRNN_LOSS(type, name) type::classes,
#include "losses.def"
#undef FUSEDRNN_LOSS
};

}  // namespace fusedrnn
