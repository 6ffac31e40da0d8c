"""Sorting."""

# ruff: noqa: E501 (a question is one line, however long)
from __future__ import annotations

from athanor.data.synthesis.programs.base import ints, list_of, program, sentence


@program(
    "冒泡排序：返回升序列表",
    "Bubble sort: return the list in ascending order.",
    lambda r, n: (ints(r, n),),
    order="n^2",
    grow=list_of,
)
def bubble_sort(items: list[int]) -> list[int]:
    items = list(items)
    for i in range(len(items)):
        for j in range(len(items) - 1 - i):
            if items[j] > items[j + 1]:
                items[j], items[j + 1] = items[j + 1], items[j]
    return items


@program("冒泡排序过程中交换的次数", "Return the number of swaps that bubble sort makes.", lambda r, n: (ints(r, n),))
def bubble_swaps(items: list[int]) -> int:
    items = list(items)
    count = 0
    for i in range(len(items)):
        for j in range(len(items) - 1 - i):
            if items[j] > items[j + 1]:
                items[j], items[j + 1] = items[j + 1], items[j]
                count += 1
    return count


@program(
    "插入排序：返回升序列表",
    "Insertion sort: return the list in ascending order.",
    lambda r, n: (ints(r, n),),
    order="n^2",
    grow=lambda n: (list(range(n, 0, -1)),),
)
def insertion_sort(items: list[int]) -> list[int]:
    items = list(items)
    for i in range(1, len(items)):
        x = items[i]
        j = i - 1
        while j >= 0 and items[j] > x:
            items[j + 1] = items[j]
            j -= 1
        items[j + 1] = x
    return items


@program(
    "选择排序进行 {k} 轮之后的列表",
    "Return the list after {k} rounds of selection sort.",
    lambda r, n: (ints(r, n + 2),),
    k=(1, 2, 3),
)
def selection_rounds(items: list[int], *, k: int) -> list[int]:
    items = list(items)
    for i in range(min(k, len(items))):
        low = i
        for j in range(i + 1, len(items)):
            if items[j] < items[low]:
                low = j
        items[i], items[low] = items[low], items[i]
    return items


@program(
    "归并排序：返回升序列表",
    "Merge sort: return the list in ascending order.",
    lambda r, n: (ints(r, n),),
    order="n log n",
    grow=list_of,
)
def merge_sort(items: list[int]) -> list[int]:
    if len(items) <= 1:
        return list(items)
    middle = len(items) // 2
    left, right = merge_sort(items[:middle]), merge_sort(items[middle:])
    result = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    return result + left[i:] + right[j:]


@program(
    "快速排序（第一个元素作基准）：返回升序列表",
    "Quicksort with the first element as pivot: return the list in ascending order.",
    lambda r, n: (ints(r, n),),
)
def quick_sort(items: list[int]) -> list[int]:
    if len(items) <= 1:
        return list(items)
    pivot = items[0]
    small = [x for x in items[1:] if x < pivot]
    large = [x for x in items[1:] if x >= pivot]
    return quick_sort(small) + [pivot] + quick_sort(large)


@program(
    "计数排序：元素在 0 到 {k} 之间，返回升序列表",
    "Counting sort of values from 0 to {k}: return the list in ascending order.",
    lambda r, n: (ints(r, n, 0, 5),),
    k=(5, 6, 9),
)
def counting_sort(items: list[int], *, k: int) -> list[int]:
    count = [0] * (k + 1)
    for x in items:
        count[x] += 1
    result = []
    for value, times in enumerate(count):
        result += [value] * times
    return result


@program(
    "用堆返回最小的 {k} 个数（升序）",
    "Return the {k} smallest numbers in ascending order with a heap.",
    lambda r, n: (ints(r, n + 2),),
    k=(2, 3, 4),
)
def k_smallest(items: list[int], *, k: int) -> list[int]:
    import heapq

    heap = list(items)
    heapq.heapify(heap)
    return [heapq.heappop(heap) for _ in range(min(k, len(heap)))]


@program(
    "按长度、再按字典序给单词排序", "Sort words by length, then alphabetically.", lambda r, n: (sentence(r, n).split(),)
)
def sort_words(words: list[str]) -> list[str]:
    return sorted(words, key=lambda w: (len(w), w))


@program(
    "返回列表中逆序对的个数",
    "Return the number of inversions of a list.",
    lambda r, n: (ints(r, n),),
    order="n^2",
    grow=list_of,
)
def inversions(items: list[int]) -> int:
    count = 0
    for i in range(len(items)):
        for j in range(i + 1, len(items)):
            if items[i] > items[j]:
                count += 1
    return count


@program(
    "荷兰国旗：以 {k} 为界把列表重排为小于、等于、大于三段（每段保持原有顺序）",
    "Rearrange a list into smaller, equal and larger than {k}, each part in its old order.",
    lambda r, n: (ints(r, n, 0, 10),),
    k=(4, 5, 6),
)
def three_way(items: list[int], *, k: int) -> list[int]:
    return [x for x in items if x < k] + [x for x in items if x == k] + [x for x in items if x > k]
