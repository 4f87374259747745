// Which sanitizer the tests are built with: FUSEDRNN_TSAN, FUSEDRNN_ASAN.
#pragma once

#if defined(__has_feature)
#define FUSEDRNN_HAS_FEATURE(x) __has_feature(x)
#else
#define FUSEDRNN_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || FUSEDRNN_HAS_FEATURE(thread_sanitizer)
#define FUSEDRNN_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__) || FUSEDRNN_HAS_FEATURE(address_sanitizer)
#define FUSEDRNN_ASAN 1
#endif
