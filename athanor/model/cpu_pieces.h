// How products.py hands over the products of linear layers that read the same input.

#pragma once

#include <cstdint>

// c = a · b of one layer. Output: a = x, b = W, c = y. Input gradient: a = dy, b = W, c = dx, the sum over the pieces, which is
// the same in all. Weight gradient: a = dy, b = x, c = dW, or dW is added to it.
template <class Value, class Result = Value>
struct Piece {
  int64_t outputs;  // of the layer
  const Value *a, *b;
  Result* c;
};
