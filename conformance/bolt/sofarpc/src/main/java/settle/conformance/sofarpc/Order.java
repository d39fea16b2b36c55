package settle.conformance.sofarpc;

import java.io.Serializable;
import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Date;
import java.util.List;

/** An object with objects inside, one of them twice. */
public class Order implements Serializable {
    private static final long serialVersionUID = 1;

    public long id;
    public String customer;
    public BigDecimal price;
    public Date placed;
    public List<Item> items = new ArrayList<>();
    public Item first;

    public static class Item implements Serializable {
        private static final long serialVersionUID = 1;

        public String name;
        public int count;
    }

    @Override
    public String toString() {
        StringBuilder text = new StringBuilder().append(id).append(' ').append(customer).append(' ').append(price);
        text.append(' ').append(placed.getTime());
        for (Item item : items) {
            text.append(' ').append(item.name).append('x').append(item.count).append(item == first ? "!" : "");
        }
        return text.toString();
    }
}
