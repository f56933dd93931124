"""docs/lesson.md, whose figures are those that the stages measured."""
