"""Parts of screens. A widget's file holds the widget, its style and its messages; none of them does I/O."""
